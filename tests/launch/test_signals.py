"""Ignored signals stay ignored, and a second signal kills no node."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

from lpg_distributed.launch import stopping

SUPERVISOR = (pathlib.Path(__file__).parents[2] / 'launch' / 'local'
              / 'supervisor.py')
HANGUPS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


def start(code, ignored=(), **kwargs):
  """A process that runs `code`, started as `nohup` or a script's `&` do."""
  def prepare():
    # The tests themselves may run under `nohup`, or by a script's `&`.
    for number in stopping.SIGNALS:
      signal.signal(number, signal.SIG_DFL)
    for number in ignored:
      signal.signal(number, signal.SIG_IGN)

  return subprocess.Popen(
      code if isinstance(code, list) else [sys.executable, '-c', code],
      preexec_fn=prepare, stdout=subprocess.PIPE, text=True, **kwargs)


def ends_within(process, seconds):
  try:
    process.wait(seconds)
  except subprocess.TimeoutExpired:
    return False
  return True


STOPPING = '''
import signal, sys
from lpg_distributed.launch import stopping
before = {n: signal.getsignal(n) for n in stopping.SIGNALS}
with stopping.Stopping() as stop:
  print('ready', flush=True)
  print(stop.event.wait(0.5), stop.exit_code, flush=True)
print({n: signal.getsignal(n) for n in stopping.SIGNALS} == before, flush=True)
'''


@pytest.mark.parametrize('number', HANGUPS)
def test_a_command_does_not_handle_ignored_signals(number):
  """They are still ignored after the command."""
  process = start(STOPPING, [number])
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  out, _ = process.communicate(timeout=20)
  assert out == 'False 0\nTrue\n' and process.returncode == 0


@pytest.mark.parametrize('number', [*HANGUPS, signal.SIGTERM])
def test_a_command_handles_signals_and_restores_handlers(number):
  """SIGQUIT is one of them."""
  process = start(STOPPING)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  out, _ = process.communicate(timeout=20)
  # The handler is removed at the first signal, so that a second one ends it.
  assert out == f'True {128 + number}\nTrue\n' and process.returncode == 0


@pytest.mark.parametrize('number', HANGUPS)
def test_a_supervised_node_survives_an_ignored_signal(number, tmp_path):
  """Otherwise it would end a run under `nohup`."""
  ready = tmp_path / 'ready'
  process = start([sys.executable, '-S', '-I', str(SUPERVISOR), '-c',
                   f'import time; open({str(ready)!r}, "w"); time.sleep(60)'],
                  [number])
  while not ready.exists():
    time.sleep(0.01)
  process.send_signal(number)
  assert not ends_within(process, 0.5)
  process.terminate()
  assert ends_within(process, 20) and process.returncode == 0
  process.stdout.close()


def test_a_terminals_signals_do_not_reach_a_supervised_node(tmp_path):
  """Launchpad's handlers would kill the node at the second Ctrl-C."""
  ready = tmp_path / 'ready'
  process = start([sys.executable, '-S', '-I', str(SUPERVISOR), '-c', f'''
import os, signal, sys, time
for number in {[int(n) for n in HANGUPS]}:
  signal.signal(number, lambda *_: os._exit(9))
def save(*_):
  time.sleep(0.5)
  open({str(tmp_path / 'saved')!r}, 'w')
  sys.exit(0)
signal.signal(signal.SIGTERM, save)
open({str(ready)!r}, 'w')
while True: time.sleep(1)
'''], start_new_session=True)
  while not ready.exists():
    time.sleep(0.01)
  for number in (signal.SIGINT, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    os.killpg(process.pid, number)
    time.sleep(0.05)
  assert ends_within(process, 20) and process.returncode == 0
  assert (tmp_path / 'saved').exists()
  process.stdout.close()


LAUNCHER = '''
import os, signal, subprocess, sys, time, types
from lpg_distributed.launch import stopping
from lpg_distributed.launch.local import local_launchpad

def launch(*args, **kwargs):
  """As Launchpad does: takes signals, and kills at the second."""
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, lambda number, frame: print(
        'launchpad', int(number), flush=True))
  print(subprocess.run(['grep', 'SigBlk', '/proc/self/status'],
                       stdout=subprocess.PIPE).stdout.decode().split()[1])

with stopping.Stopping(second_ends=False) as stop:
  local_launchpad.launch(types.SimpleNamespace(launch=launch), None,
                         'local_mp', {}, stop)
  print(signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
  end = time.monotonic() + 2
  while time.monotonic() < end:
    time.sleep(0.05)
  print('end', stop.exit_code, flush=True)
'''


def check_signals_were_blocked(process):
  blocked, mask = process.stdout.readline(), process.stdout.readline()
  for number in HANGUPS:
    assert int(blocked, 16) >> (number - 1) & 1
  assert mask == 'set()\n'


def test_a_second_signal_does_not_kill_a_launched_program():
  """Launchpad would kill all nodes at the second SIGINT, and at SIGQUIT."""
  process = start(LAUNCHER, stderr=subprocess.PIPE)
  check_signals_were_blocked(process)
  for number in (signal.SIGINT, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    process.send_signal(number)
    time.sleep(0.1)
  out, err = process.communicate(timeout=20)
  assert out == 'launchpad 15\nend 130\n' and process.returncode == 0
  assert err.count('the nodes are saving and ending') == 3


@pytest.mark.parametrize('number', HANGUPS)
def test_a_launched_program_does_not_handle_ignored_signals(number):
  """Launchpad by itself would handle SIGINT and SIGQUIT."""
  process = start(LAUNCHER, [number])
  check_signals_were_blocked(process)
  process.send_signal(number)
  assert process.communicate(timeout=20)[0] == 'end 0\n'


def test_a_signal_within_a_handler_does_not_deadlock():
  """An event's lock cannot be taken twice by one thread."""
  interrupt = stopping.Stopping()
  set_event = interrupt.event.set

  def set_late():
    signal.raise_signal(signal.SIGTERM)
    set_event()

  interrupt.event.set = mock.Mock(side_effect=set_late)
  with interrupt:
    signal.raise_signal(signal.SIGINT)
  assert interrupt.event.set.call_count == 1
  assert interrupt.event.is_set() and interrupt.signal == signal.SIGINT


def test_install_returns_the_previous_handlers():
  before = signal.getsignal(signal.SIGUSR2)
  try:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    assert stopping.install(print, [signal.SIGUSR2]) == {}
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    handlers = stopping.install(print, [signal.SIGUSR2])
    assert signal.getsignal(signal.SIGUSR2) is print
    stopping.restore(handlers)
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
  finally:
    signal.signal(signal.SIGUSR2, before)


def test_a_supervisor_notices_a_death_if_sigchld_is_ignored(tmp_path):
  """Otherwise each death would look like a normal end."""
  process = start([sys.executable, '-S', '-I', str(SUPERVISOR), '-c',
                   'import sys; sys.exit(3)'], [signal.SIGCHLD],
                  env={**os.environ, 'LPG_MAX_RESTARTS': '0'})
  assert process.wait(20) == 1
  process.stdout.close()


COMMAND = '''
import os, signal, subprocess, sys
from lpg_distributed.launch import command

def main():
  if sys.argv[1] == 'blocked':
    os.kill(os.getpid(), signal.SIGTERM)
  return subprocess.run([sys.executable, '-c', 'exit(3)']).returncode

command.run(main, None)
'''


def test_a_command_resets_ignored_sigchld_and_blocked_sigterm(tmp_path):
  process = start([sys.executable, '-c', COMMAND, 'ignored'],
                  [signal.SIGCHLD])
  assert process.wait(20) == 3
  process.stdout.close()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
  try:
    process = start([sys.executable, '-c', COMMAND, 'blocked'])
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
  assert process.wait(20) == -signal.SIGTERM
  process.stdout.close()


def test_a_current_directory_that_is_gone_is_an_error_of_one_line(tmp_path):
  """There is no traceback."""
  place = tmp_path / 'gone'
  place.mkdir()
  done = subprocess.run(
      [sys.executable, '-c', f"""
import os
from lpg_distributed.launch import command
os.chdir({str(place)!r})
os.rmdir({str(place)!r})
command.run(lambda: 0, None)
"""], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr == ('error: the current directory is gone; change into '
                         'another\n')
