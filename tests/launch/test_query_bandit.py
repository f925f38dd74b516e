"""The client of the bandit's facade, with hostile servers and hostile runs."""

import contextlib
import json
import os
import socket
import threading
import time

import pytest

from lpg_distributed import errors
from lpg_distributed.launch import command
from lpg_distributed.launch.local import facade_client

ARM = {'learning_rate': 1., 'kl_cost': 0.5, 'mean_return': 0., 'lifetimes': 1,
       'probability': 1.}
GOOD = {'meta_step': 3, 'environments': {'chain_short': [ARM]}}
TOKEN = 'k' * 32


class FakeServer:
  """Answers each connection with the same bytes, and records requests."""

  def __init__(self, answer, pause_s=0.):
    self._answer = answer
    self._pause_s = pause_s
    self.received = b''
    self._listener = socket.create_server(('127.0.0.1', 0))
    self.address = '127.0.0.1:%d' % self._listener.getsockname()[1]
    self._thread = threading.Thread(target=self._run)
    self._thread.start()

  def _run(self):
    with contextlib.suppress(OSError):
      while True:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(OSError):
          self.received += connection.recv(65536)
          for i in range(len(self._answer) if self._pause_s else 1):
            connection.sendall(self._answer[i:i + 1] if self._pause_s
                               else self._answer)
            time.sleep(self._pause_s)

  def close(self):
    self._listener.shutdown(socket.SHUT_RDWR)
    self._listener.close()
    self._thread.join(10)


@pytest.fixture
def fake_server():
  made = []

  def make(answer=b'', **settings):
    if not isinstance(answer, bytes):
      answer = b'HTTP/1.1 200 OK\r\n\r\n' + json.dumps(answer).encode()
    made.append(FakeServer(answer, **settings))
    return made[-1]

  yield make
  for one in made:
    one.close()


def ask(one):
  return facade_client.get_statistics(
      facade_client.FacadeAddress(one.address, ''))


def with_arm(**changes):
  return {'meta_step': 3, 'environments': {'e': [{**ARM, **changes}]}}


def test_a_good_answer_is_read(fake_server):
  assert ask(fake_server(GOOD)) == GOOD


@pytest.mark.parametrize('answer', [
    [], {}, 3, None, {'meta_step': 3}, {'meta_step': 3, 'environments': []},
    {'meta_step': 3, 'environments': {'e': []}},
    {'meta_step': 3, 'environments': {'e': [3]}},
    {'meta_step': '\x1b[2J', 'environments': {}},
    with_arm(learning_rate='x'), with_arm(learning_rate=None),
    with_arm(kl_cost=True),
    with_arm(lifetimes=[]), with_arm(probability=float('nan')),
    with_arm(mean_return=10 ** 400)])
def test_an_invalid_answer_is_an_error_of_one_line(fake_server, answer):
  with pytest.raises(facade_client.NoAnswer, match='did not answer'):
    ask(fake_server(answer))


@pytest.mark.parametrize('answer', [
    b'', b'SSH-2.0\r\n', b'HTTP/1.1 200 OK\r\n\r\n' + b'[' * 100_000,
    b'HTTP/1.1 500 X\r\n\r\n{"error": 3}',
    b'HTTP/1.1 500 X\r\n\r\n{"error": {"message": 3}}',
    b'HTTP/1.1 200 OK\r\n' + b'A: b\r\n' * 200 + b'\r\n'])
def test_a_server_that_is_no_facade_is_an_error_of_one_line(
    fake_server, answer):
  with pytest.raises(facade_client.NoAnswer, match='did not answer'):
    ask(fake_server(answer))


def test_an_answer_sent_byte_by_byte_times_out(fake_server, monkeypatch):
  monkeypatch.setattr(facade_client, '_TIMEOUT_S', 0.5)
  start = time.monotonic()
  with pytest.raises(facade_client.NoAnswer):
    ask(fake_server(b'HTTP/1.1 200 OK\r\n' + b'A' * 400, pause_s=0.02))
  assert time.monotonic() - start < 4


def test_no_escape_sequence_reaches_the_terminal(fake_server, capsys):
  names = ask(fake_server({'meta_step': 3, 'environments': {
      '\x1b[2J\x9b1m': [ARM]}}))['environments']
  assert list(names) == ['\\x1b[2J\\x9b1m']
  body = json.dumps({'error': {'code': 500, 'message': 'a\x1b]0;b\x07'}})
  with pytest.raises(command.UsageError) as raised:
    ask(fake_server(b'HTTP/1.1 500 X\r\n\r\n' + body.encode()))
  errors.report(raised.value)
  shown = capsys.readouterr().err
  assert 'a\\x1b]0;b\\x07' in shown and '\x1b' not in shown


def make_run(directory, address, token_file=''):
  directory.mkdir(exist_ok=True)
  (directory / 'launch.json').write_text(json.dumps(
      {'addresses': {'bandit_server': address}, 'token_file': token_file}))
  return str(directory)


def make_token(path):
  path.write_text(TOKEN)
  path.chmod(0o600)
  return str(path)


def test_the_token_of_a_run_is_in_its_directory(tmp_path):
  run = make_run(tmp_path / 'run', '127.0.0.1:80',
                 str(tmp_path / 'run' / 'token'))
  make_token(tmp_path / 'run' / 'token')
  assert facade_client.find(run) == ('127.0.0.1:80', TOKEN)


@pytest.mark.parametrize('link', [False, True])
def test_a_token_file_outside_the_run_is_not_sent(tmp_path, link):
  secret = make_token(tmp_path / 'secret')
  (tmp_path / 'run').mkdir()
  if link:
    (tmp_path / 'run' / 'token').symlink_to(secret)
    secret = str(tmp_path / 'run' / 'token')
  run = make_run(tmp_path / 'run', '127.0.0.1:80', secret)
  with pytest.raises(command.UsageError, match='give --token_file'):
    facade_client.find(run)
  assert facade_client.find(run, str(tmp_path / 'secret')).token == TOKEN


@pytest.mark.parametrize('address', [
    '192.0.2.1:80', 'example.org:80', 'localhost.example.org:80', '0.0.0.0:80',
    '[2001:db8::1]:80', 'localhost:x'])
def test_no_token_is_sent_to_another_machine(tmp_path, address):
  token = make_token(tmp_path / 'token')
  with pytest.raises(command.UsageError, match='no token is sent'):
    facade_client.find(make_run(tmp_path / 'run', address), token)


def test_the_run_of_another_user_is_refused(tmp_path, monkeypatch):
  run = make_run(tmp_path / 'run', '127.0.0.1:80')
  monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
  with pytest.raises(command.UsageError, match='belongs to another user'):
    facade_client.find(run)


def test_invalid_launch_files_are_refused(tmp_path):
  run = make_run(tmp_path / 'run', '127.0.0.1:80')
  file = tmp_path / 'run' / 'launch.json'
  for content in ('[' * 100_000, '[]', '{}', '{"addresses": 3}', '\x00'):
    file.write_text(content)
    with pytest.raises(command.UsageError, match='is not readable'):
      facade_client.find(run)
  file.unlink()
  with pytest.raises(FileNotFoundError):
    facade_client.find(run)
  file.symlink_to('/proc/self/environ')
  with pytest.raises(command.UsageError, match='is not readable'):
    facade_client.find(run)
  file.unlink()
  os.mkfifo(file)
  with pytest.raises(command.UsageError, match='is not readable'):
    facade_client.find(run)
