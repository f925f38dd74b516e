"""Atari jobs in real processes: stopped, resumed, as a Launchpad program."""

import json
import os
import signal
import subprocess
import sys

import pytest

from lpg_distributed.launch import process_environment
from tests import waiting
from tests.launch import command_testing

pytest.importorskip('ale_py')
# 40 updates of 10 steps; the network is that of Table 4.
SMALL = ('--rule=a2c', '--num_envs=2', '--set=trajectory_steps=5',
         '--frames=1600')


class Launch:
  """The command, as a user would start it, in a session of its own."""

  def __init__(self, root, *arguments):
    self.root = root
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'launch.atari', f'--results={root}', *SMALL,
         *arguments],
        env={**os.environ, **process_environment.with_packages({})},
        stderr=subprocess.PIPE, text=True, start_new_session=True)

  def end(self):
    _, stderr = self.process.communicate(timeout=waiting.PATIENCE_S)
    return self.process.returncode, stderr

  def wait_for_row(self, name):
    waiting.until(lambda: rows(self.root, name), f'a row of {name}',
                  process=self.process)


def rows(root, name):
  try:
    with open(root / name / 'result.jsonl', encoding='utf-8') as f:
      return [json.loads(line) for line in f][1:]
  except (FileNotFoundError, json.JSONDecodeError):
    return []


@pytest.fixture
def start(tmp_path):
  launches = []

  def launch(*arguments):
    launches.append(Launch(tmp_path / 'results', *arguments))
    return launches[-1]

  yield launch
  for one in launches:
    if one.process.poll() is None:
      os.killpg(one.process.pid, signal.SIGKILL)


@pytest.mark.processes
@pytest.mark.long
@pytest.mark.parametrize('launch_type, number, games', [
    ('processes', signal.SIGINT, ('breakout',)),
    # Three games, with 6, 18 and 18 actions.
    ('local_mp', signal.SIGTERM, ('pong', 'seaquest', 'montezuma_revenge'))])
def test_a_stopped_launch_is_resumed(start, launch_type, number, games):
  arguments = (f'--games={",".join(games)}', f'--launch_type={launch_type}',
               '--processes=2')
  launch = start(*arguments)
  name = f'{games[0]}/a2c_seed0'
  launch.wait_for_row(name)
  launch.process.send_signal(number)
  code, stderr = launch.end()
  assert code == 128 + number, stderr
  before = rows(launch.root, name)
  assert before[-1]['env_steps'] < 400, 'too fast for this test'
  code, stderr = start(*arguments).end()
  assert code == 0, stderr
  assert f'{len(games)} of {len(games)} jobs are done' in stderr
  for game in games:
    found = rows(launch.root, f'{game}/a2c_seed0')
    steps = [row['env_steps'] for row in found]
    assert steps == sorted(set(steps)) and steps[-1] == 400
    assert found[-1]['updates'] == 40 and found[-1]['frames'] == 1600
  assert rows(launch.root, name)[:len(before)] == before
  code, stderr = start(*arguments).end()
  assert code == 0 and f'{len(games)} done before' in stderr


@pytest.fixture(scope='module')
def run():
  commands = command_testing.Commands('launch.atari')
  yield commands
  commands.close()


@pytest.mark.parametrize('arguments, parts', [
    ((), ['--games is missing', 'allowed: all']),
    (('--games=brekout',), ["'brekout'", 'did you mean breakout']),
    (('--games=pong', '--seeds=x'), ['--seeds', 'whole numbers']),
    (('--games=pong', '--frames=0'), ['--frames is 0']),
    (('--games=pong', '--rule=dqn'), ["'dqn'", 'a2c']),
    (('--games=pong',), ['needs an eta']),
    (('--games=pong', '--eta=none.npz'), ['none.npz']),
    (('--games=pong', '--rule=a2c', '--preset=x'), ['dm_noop, machado']),
    (('--games=pong', '--rule=a2c', '--set=gamma=2'), ['gamma']),
    (('--games=pong', '--rule=a2c', '--launch_type=x'), ['local_mp']),
    (('--games=pong', '--rule=a2c', '--processes=0'), ['--processes is 0']),
])
def test_bad_flags_are_refused(run, tmp_path, arguments, parts):
  root = tmp_path / 'results'
  code, stdout, stderr = run(f'--results={root}', *arguments)
  assert code == 2 and stdout == '' and not root.exists()
  assert stderr.startswith('error: ') and stderr.count('\n') == 1
  for part in parts:
    assert part in stderr


def test_a_missing_results_flag_is_refused(run):
  code, _, stderr = run('--games=pong', '--rule=a2c')
  assert code == 2 and '--results is missing' in stderr
