"""The supervisor with nodes that are a line of Python."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests import waiting

SUPERVISED = (pathlib.Path(__file__).parents[2] / 'launch' / 'local' /
              'supervised.sh')
# Records process id and arguments of each start.
RECORD_START = '''
import os, signal, sys, time
with open({notes!r}, 'a') as f:
  f.write(f'{{os.getpid()}} {{sys.argv[1:]}}\\n')
starts = len(open({notes!r}).readlines())
'''


def _defaults():
  """Sets defaults, as the tests may run under `nohup` or by a script's `&`."""
  for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)


class Node:
  """A supervised node and its records."""

  def __init__(self, directory, code, *arguments, **variables):
    self.notes = directory / 'notes'
    self.deaths_file = directory / 'deaths'
    script = directory / 'node.py'
    script.write_text(RECORD_START.format(notes=str(self.notes)) + code)
    pids = directory / 'pids'
    pids.mkdir(exist_ok=True)
    self.process = subprocess.Popen(
        [SUPERVISED, str(script), *arguments], stderr=subprocess.PIPE,
        text=True, preexec_fn=_defaults, env={
            **os.environ, 'LPG_PYTHON': sys.executable, 'LPG_NODE': 'worker',
            'LPG_LAUNCHER_PID': str(os.getpid()), 'LPG_PIDS': str(pids),
            'LPG_DEATHS': str(self.deaths_file), 'PYTHONPATH': '',
            **{k: str(v) for k, v in variables.items()}})

  def end(self):
    """Returns the exit code and the records of all starts."""
    self.stderr = self.process.communicate(timeout=120)[1]
    return self.process.returncode, self.notes.read_text().splitlines()

  def wait_for_starts(self, number):
    waiting.until(lambda: waiting.lines(self.notes) >= number,
                  f'start {number}', process=self.process)
    return int(self.notes.read_text().splitlines()[-1].split()[0])

  def deaths(self):
    return [json.loads(line) for line
            in self.deaths_file.read_text().splitlines()]


def test_a_killed_node_is_restarted_until_it_ends_normally(tmp_path):
  node = Node(tmp_path, 'if starts < 3: os.kill(os.getpid(), signal.SIGKILL)',
              '--port=1234', '--lp_task_id', '5')
  code, notes = node.end()
  assert code == 0 and len(notes) == 3
  assert len({note.split()[0] for note in notes}) == 3
  assert {note.split(' ', 1)[1] for note in notes} == {
      "['--port=1234', '--lp_task_id', '5']"}
  first, second = node.deaths()
  assert (first['node'], first['how'], first['final']) == (
      'worker/5', 'signal SIGKILL', False)
  assert (first['failures'], second['failures']) == (1, 2)
  assert 'worker/5 ended (signal SIGKILL)' in node.stderr


@pytest.mark.parametrize('variables, code', [({}, 1), ({'LPG_OPTIONAL': 1}, 0)])
def test_the_supervisor_gives_up_after_a_limit_with_growing_pauses(
    tmp_path, variables, code):
  begin = time.monotonic()
  node = Node(tmp_path, 'sys.exit(3)', LPG_MAX_RESTARTS=3, **variables)
  assert node.end()[0] == code
  assert [d['final'] for d in node.deaths()] == [False] * 3 + [True]
  assert [d['code'] for d in node.deaths()] == [3] * 4
  assert time.monotonic() - begin > 0.2 + 0.4 + 0.8


def test_restarts_are_counted_anew_after_a_healthy_time(tmp_path):
  node = Node(tmp_path, 'time.sleep(0.3); sys.exit(starts < 5)',
              LPG_MAX_RESTARTS=1, LPG_HEALTHY_S=0.2)
  code, notes = node.end()
  assert code == 0 and len(notes) == 5
  assert {d['failures'] for d in node.deaths()} == {1}


def test_a_node_that_ends_with_code_70_is_not_restarted(tmp_path):
  code, notes = Node(tmp_path, 'sys.exit(70)').end()
  assert code == 1 and len(notes) == 1


def test_a_node_that_falls_silent_is_killed_and_restarted(tmp_path):
  node = Node(tmp_path, '''
for _ in range(3):
  os.write(int(os.environ['LPG_HEARTBEAT_FD']), b'.')
  time.sleep(0.1)
if starts == 1:
  os.kill(os.getpid(), signal.SIGSTOP)
''', LPG_HANG_S=3)
  # Without the kill it would not end, for it is stopped.
  code, notes = node.end()
  assert code == 0 and len(notes) == 2
  assert node.deaths()[0]['how'] == 'hung'


def test_a_node_with_heartbeats_is_not_killed(tmp_path):
  root = str(SUPERVISED.parents[2])
  node = Node(tmp_path, f'''
sys.path.insert(0, {root!r})
from lpg_distributed.nodes import heartbeat
heartbeat.start()
heartbeat.start()
time.sleep(7)
''', LPG_HANG_S=4)
  code, notes = node.end()
  assert code == 0 and len(notes) == 1


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT,
                                    signal.SIGHUP])
def test_a_signal_ends_node_and_supervisor(tmp_path, number):
  node = Node(tmp_path, 'time.sleep(100)')
  pid = node.wait_for_starts(1)
  assert (tmp_path / 'pids' / 'worker').read_text() == str(pid)
  node.process.send_signal(number)
  code, notes = node.end()
  assert code == 0 and len(notes) == 1
  waiting.until_gone([pid])


def test_a_node_may_save_before_it_ends(tmp_path):
  node = Node(tmp_path, '''
def save(*_):
  time.sleep(0.5)
  print('saved', file=sys.stderr)
  sys.exit(0)
signal.signal(signal.SIGTERM, save)
with open(sys.argv[1], 'w'): pass
time.sleep(100)
''', str(tmp_path / 'ready'))
  waiting.until((tmp_path / 'ready').exists, 'a node that is ready')
  node.process.terminate()
  assert node.end()[0] == 0 and 'saved' in node.stderr


def test_a_node_dies_with_its_supervisor(tmp_path):
  node = Node(tmp_path, 'time.sleep(100)')
  pid = node.wait_for_starts(1)
  node.process.kill()
  waiting.until_gone([pid])


def test_a_node_dies_with_its_launcher(tmp_path):
  """The launcher is another process, which is killed."""
  launcher = subprocess.Popen([sys.executable, '-c', f'''
import os, subprocess, sys, time
os.environ['LPG_LAUNCHER_PID'] = str(os.getpid())
os.environ['LPG_PYTHON'] = sys.executable
process = subprocess.Popen([{str(SUPERVISED)!r}, '-c',
                            'import os, time; print(os.getpid(), flush=True);'
                            'time.sleep(100)'])
print(process.pid, flush=True)
time.sleep(100)
'''], stdout=subprocess.PIPE, text=True)
  pids = [int(launcher.stdout.readline()) for _ in range(2)]
  launcher.kill()
  launcher.wait()
  waiting.until_gone(pids)


def test_a_node_that_does_not_end_is_killed(tmp_path):
  node = Node(tmp_path, 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
              'open(sys.argv[1], "w").close()\ntime.sleep(100)\n',
              str(tmp_path / 'deaf'), LPG_STOP_S=1)
  pid = node.wait_for_starts(1)
  waiting.until((tmp_path / 'deaf').exists, 'a node that ignores SIGTERM')
  begin = time.monotonic()
  node.process.terminate()
  code, starts = node.end()
  assert code == 0 and len(starts) == 1
  # Earlier than the node's own end.
  assert 1 <= time.monotonic() - begin < 60
  assert 'did not end within 1 s; killed' in node.stderr
  assert not psutil.pid_exists(pid)
