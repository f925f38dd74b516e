"""The bandit for outsiders: what is answered, refused, and never reached."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import bandit_facade
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import http_server

CONFIG = config_lib.Config(environments=('chain_short', 'tabular_sparse'))
TOKEN = 'a' * 32


class Served:
  """A facade before a bandit server, on a port of its own."""

  def __init__(self, writable=False, token=None, limits=None):
    self.bandit = bandit_server.BanditServer(CONFIG)
    self.bandit.restore(7, None)
    self.bandit.end_step(
        0, [[0, 0, 0, 'chain_short', arm, value]
            for arm, value in ((0, 1.), (2, 0.25))], 7)
    self.facade = bandit_facade.BanditFacade(self.bandit, writable)
    self.facade.refresh()
    self.server = http_server.Server(self.facade.handle, token, limits)
    listener = socket.create_server(('127.0.0.1', 0))
    self.port = listener.getsockname()[1]
    self._loop = asyncio.new_event_loop()
    self._task = self._loop.create_task(self.server.run(listener))
    self._thread = threading.Thread(target=self._run)
    self._thread.start()

  def _run(self):
    with contextlib.suppress(asyncio.CancelledError):
      self._loop.run_until_complete(self._task)

  def close(self):
    self._loop.call_soon_threadsafe(self._task.cancel)
    self._thread.join(10)
    assert not self._thread.is_alive()

  def ask(self, path, method='GET', body=None, **headers):
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=5)
    connection.request(method, path, body, {
        name.replace('_', '-'): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content

  def say(self, data, timeout=5):
    """Raw bytes; what comes back until the connection ends."""
    with socket.create_connection(('127.0.0.1', self.port),
                                  timeout=timeout) as connection:
      connection.sendall(data)
      received = b''
      # What is cut off before it was read may end so.
      with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
          received += chunk
    return received

  def report(self, **fields):
    body = {'id': 'a', 'environment': 'chain_short', 'arm': 1, 'return': 0.5}
    return self.ask('/v1/returns', 'POST', json.dumps({**body, **fields}),
                    Content_Type='application/json')


@pytest.fixture
def serve():
  made = []

  def make(**settings):
    made.append(Served(**settings))
    return made[-1]

  yield make
  for served in made:
    served.close()


def test_says_what_the_bandit_says(serve):
  served = serve()
  expected = served.bandit.get_statistics()
  del expected['epoch']
  assert served.ask('/v1/statistics') == (200, expected)
  code, one = served.ask('/v1/statistics?environment=chain_short')
  assert code == 200 and list(one['environments']) == ['chain_short']
  arms = expected['environments']['chain_short']
  code, answer = served.ask('/v1/distribution?environment=chain_short')
  assert code == 200 and answer['meta_step'] == 1
  assert answer['arms'] == [
      {k: arm[k] for k in ('alpha_lr', 'alpha_y', 'probability')}
      for arm in arms]
  np.testing.assert_allclose(sum(a['probability'] for a in answer['arms']), 1.)
  code, health = served.ask('/v1/health')
  assert code == 200 and health['status'] == 'ok' and not health['writable']
  assert served.ask('/v1/schema')[1] == bandit_facade.SCHEMA


def test_samples_from_the_distribution(serve):
  served = serve()
  arms = served.bandit.get_statistics()['environments']['tabular_sparse']
  counts = np.zeros(len(arms))
  for seed in range(2000):
    answer = served.facade._sample({'environment': 'tabular_sparse',
                                    'seed': str(seed)})
    counts[answer['arm']] += 1
    assert answer['alpha_lr'] == arms[answer['arm']]['alpha_lr']
  expected = 2000 * np.array([arm['probability'] for arm in arms])
  assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
  path = '/v1/sample?environment=chain_short&seed=3'
  assert served.ask(path) == served.ask(path)
  assert served.ask('/v1/sample?environment=chain_short')[0] == 200


def test_news_arrive_and_a_bandit_without_memory_is_not_believed(serve):
  served = serve()
  served.bandit.end_step(1, [[1, 0, 0, 'chain_short', 5, 1.]], 7)
  served.facade.refresh()
  assert served.ask('/v1/statistics')[1]['meta_step'] == 2
  served.facade._bandit = bandit_server.BanditServer(CONFIG)
  served.facade.refresh()
  assert served.ask('/v1/statistics')[1]['meta_step'] == 2
  served.facade._fetched = time.monotonic() - 11
  code, answer = served.ask('/v1/health')
  assert code == 503 and 'has not answered for 10 s' in answer['error'][
      'message']


@pytest.mark.parametrize('path, code, part', [
    ('/', 404, '/v1/statistics'), ('/v1/statistics/', 404, 'no such path'),
    ('/v1/statistics?x=1', 400, 'allowed: environment'),
    ('/v1/health?environment=chain_short', 400, 'allowed: none'),
    ('/v1/statistics?environment=pong', 404, 'chain_short, tabular_sparse'),
    ('/v1/statistics?environment=', 400, 'chain_short'),
    ('/v1/distribution', 400, 'chain_short'),
    ('/v1/sample?environment=chain_short&seed=-1', 400, 'a whole number'),
    ('/v1/sample?environment=chain_short&seed=1&seed=2', 400, 'twice'),
    ('/v1/returns', 405, 'POST')])
def test_bad_questions(serve, path, code, part):
  status, answer = serve().ask(path)
  assert status == code == answer['error']['code']
  assert part in answer['error']['message']


def test_is_read_only_by_default(serve):
  served = serve()
  before = served.bandit.get_state()
  code, answer = served.report()
  assert code == 403 and '--bandit_writes' in answer['error']['message']
  assert served.ask('/v1/statistics', 'POST', '{}')[0] == 405
  assert served.bandit.get_state() == before


def test_a_report_counts_once_at_the_end_of_the_step(serve):
  served = serve(writable=True)
  counts = lambda: served.bandit.get_state()['bandits']['chain_short'][
      'counts']
  assert counts()[1] == 0
  assert served.report() == (200, {'accepted': True})
  assert served.report() == (200, {'accepted': False})
  assert counts()[1] == 0  # All lifetimes of a step see one distribution.
  served.bandit.end_step(1, [], 7)
  assert counts()[1] == 1
  assert served.report() == (200, {'accepted': False})
  state = served.bandit.get_state()
  # The learner goes back: what is not part of its checkpoint waits again.
  served.report(id='b')
  served.bandit.end_step(2, [], 7)
  assert counts()[1] == 2
  served.bandit.restore(8, state)
  assert counts()[1] == 1
  assert served.report(id='b') == (200, {'accepted': False})
  served.bandit.end_step(2, [], 8)
  assert counts()[1] == 2
  # A server that was started again knows what the checkpoint knows.
  other = bandit_server.BanditServer(CONFIG, json.loads(json.dumps(state)))
  assert not other.report_outside('a', 'chain_short', 1, 0.5)


@pytest.mark.parametrize('change', [
    {'id': ''}, {'id': 'x' * 65}, {'id': 'a b'}, {'id': 3}, {'arm': 9},
    {'arm': -1}, {'arm': True}, {'arm': 0.}, {'arm': '1'}, {'return': None},
    {'return': '1'}, {'return': True}, {'return': float('nan')},
    {'return': float('inf')}, {'return': 1e10}, {'environment': 'pong'},
    {'environment': 3}, {'extra': 1}])
def test_bad_reports_change_nothing(serve, change):
  served = serve(writable=True)
  before = served.bandit.get_state()
  code, answer = served.report(**change)
  assert code in (400, 404), answer
  served.bandit.end_step(1, [], 7)
  after = served.bandit.get_state()
  assert after['bandits'] == before['bandits'] and not after['outside']


def test_a_report_must_say_that_it_is_json(serve):
  served = serve(writable=True)
  assert served.ask('/v1/returns', 'POST', '{}', Content_Type='text/plain')[
      0] == 415
  for body in (b'', b'{', b'[' * 4000, b'\xff', b'[]', b'null'):
    code, _ = served.ask('/v1/returns', 'POST', body,
                         Content_Type='application/json')
    assert code == 400


def test_a_token_is_asked_for(serve):
  served = serve(token=TOKEN)
  assert served.ask('/v1/health')[0] == 401
  for shown in ('Bearer ' + 'b' * 32, 'Bearer', TOKEN, 'bearer ' + TOKEN,
                'Bearer ' + TOKEN[:-1], 'Bearer ' + TOKEN + 'a'):
    assert served.ask('/v1/health', Authorization=shown)[0] == 401
  assert served.ask('/v1/health', Authorization='Bearer ' + TOKEN)[0] == 200
  assert served.ask('/v1/health')[0] == 401
  # Names of other hosts are fine then.
  assert served.ask('/v1/health', Authorization='Bearer ' + TOKEN,
                    Host='bandit.example.org')[0] == 200


def test_without_a_token_no_web_page_gets_here_by_a_name_of_its_own(serve):
  served = serve()
  for host in ('evil.example.org', 'localhost.example.org:80', '', '0.0.0.0'):
    assert served.ask('/v1/health', Host=host)[0] == 403, host
  for host in ('localhost', '127.0.0.1:99', '[::1]:99', '[::1]'):
    assert served.ask('/v1/health', Host=host)[0] == 200, host


GOOD = b'GET /v1/health HTTP/1.1\r\nHost: localhost\r\n'


@pytest.mark.parametrize('data, code', [
    (b'\r\n\r\n', 400), (b'GET /v1/health\r\n\r\n', 400),
    (b'PUT / HTTP/1.1\r\n\r\n', 400), (b'GET  / HTTP/1.1\r\n\r\n', 400),
    (b'GET /\xff HTTP/1.1\r\n\r\n', 400), (b'GET / HTTP/2.0\r\n\r\n', 400),
    (GOOD + b'X\r\n\r\n', 400), (GOOD + b' X: 1\r\n\r\n', 400),
    (GOOD + b'Host: localhost\r\n\r\n', 400),
    (GOOD + b'Content-Length: 5\r\n\r\nhello', 400),
    (GOOD + b'Content-Length: -5\r\n\r\n', 400),
    (GOOD + b'Content-Length: 5, 5\r\n\r\n', 400),
    (GOOD + b'Content-Length: 99999\r\n\r\n', 413),
    (GOOD + b'Transfer-Encoding: chunked\r\n\r\n', 501),
    (b'GET /' + b'a' * 5000, 431),
    (GOOD + b'A: ' + b'a' * 5000 + b'\r\n\r\n', 431)])
def test_what_is_no_http_is_refused_and_cut_off(serve, data, code):
  answer = serve().say(data)
  assert answer.startswith(b'HTTP/1.1 %d ' % code), answer
  assert b'"error"' in answer and answer.count(b'HTTP/1.1') == 1


def test_requests_in_one_piece_and_in_many(serve):
  served = serve()
  last = GOOD + b'Connection: close\r\n\r\n'
  answer = served.say((GOOD + b'\r\n') * 3 + last)
  assert answer.count(b'HTTP/1.1 200 OK') == 4
  with socket.create_connection(('127.0.0.1', served.port)) as connection:
    for i in range(len(last)):
      connection.sendall(last[i:i + 1])
    received = b''
    while chunk := connection.recv(65536):
      received += chunk
  assert received.startswith(b'HTTP/1.1 200 OK')


def test_who_is_slow_is_cut_off(serve, monkeypatch):
  monkeypatch.setattr(http_server, '_REQUEST_S', 0.5)
  served = serve()
  assert served.say(GOOD).startswith(b'HTTP/1.1 408 ')
  assert served.say(b'') == b''


def test_too_many_connections_and_requests(serve):
  served = serve(limits=http_server.Limits(connections=3, requests_per_s=20))
  held = [socket.create_connection(('127.0.0.1', served.port))
          for _ in range(3)]
  while len(served.server.connections) < 3:
    time.sleep(0.01)
  answer = served.say(GOOD + b'\r\n')
  assert not answer or answer.startswith(b'HTTP/1.1 503 ')
  for connection in held:
    connection.close()
  while served.server.connections:
    time.sleep(0.01)
  answers = served.say((GOOD + b'\r\n') * 40)
  assert b'HTTP/1.1 429 ' in answers
  assert 18 <= answers.count(b'HTTP/1.1 200 OK') <= 30


def test_who_does_not_read_fills_no_memory(serve):
  served = serve()
  head = GOOD.replace(b'health', b'schema') + b'\r\n'
  with socket.create_connection(('127.0.0.1', served.port)) as connection:
    connection.settimeout(1)
    with pytest.raises(socket.timeout):
      for _ in range(100_000):
        connection.sendall(head * 20)
    ours = next(iter(served.server.connections))
    # Writing is paused at 64 KiB; an answer is smaller than as much again.
    assert ours._transport.get_write_buffer_size() < 1 << 17
    assert len(ours._buffer) < 1 << 19
  assert served.ask('/v1/health')[0] == 200


def test_who_reads_late_gets_every_answer(serve):
  served = serve(limits=http_server.Limits(requests_per_s=1e9))
  head = GOOD.replace(b'health', b'schema') + b'\r\n'
  last = head.replace(b'\r\n\r\n', b'\r\nConnection: close\r\n\r\n')
  one = served.say(last).replace(b'Connection: close\r\n', b'')
  requests = (1 << 25) // len(one)  # More than the system's buffers hold.
  received = bytearray()
  with socket.create_connection(('127.0.0.1', served.port)) as connection:
    sender = threading.Thread(target=connection.sendall,
                              args=(head * requests,))
    sender.start()
    while not any(c._unread for c in tuple(served.server.connections)):
      time.sleep(0.01)
    connection.settimeout(30)
    while len(received) < len(one) * requests:
      chunk = connection.recv(1 << 20)
      assert chunk
      received += chunk
    sender.join()
  assert received == one * requests
