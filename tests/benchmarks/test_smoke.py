"""Every command of benchmarks/README.md runs, each at a tiny size."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import pytest

from benchmarks import bandit_facade
from benchmarks import bandit_load
from benchmarks import compare
from benchmarks import environments
from benchmarks import program

ROOT = pathlib.Path(__file__).parents[2]
KIND = 'chain_short'
SIZES = ['--units=8', '--envs=4', '--lifetimes=2']
# `tpu` and `accelerator` have files of their own.
TESTED = {'accelerator', 'atari', 'bandit_facade', 'bandit_load', 'compare',
          'environments', 'meta_gradient', 'program', 'scale', 'tpu',
          'transport'}


def test_every_command_of_the_readme_is_tested():
  text = (ROOT / 'benchmarks' / 'README.md').read_text(encoding='utf-8')
  assert set(re.findall(r'python -m benchmarks\.(\w+)', text)) == TESTED
  commands = {path.stem for path in (ROOT / 'benchmarks').glob('*.py')
              if "\nif __name__ == '__main__':" in path.read_text()}
  assert commands - {'tpu_compile'} == TESTED


def run(name, *flags):
  """Runs a command in its own process; returns its output."""
  done = subprocess.run(
      [sys.executable, '-m', f'benchmarks.{name}', *flags], cwd=ROOT,
      env={**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      stdin=subprocess.DEVNULL, timeout=300, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


def read(path):
  return json.loads(path.read_text(encoding='utf-8'))


@pytest.fixture
def output(tmp_path):
  return tmp_path / 'figures.json'


def test_environments(output, capsys):
  environments.main([KIND, '--lifetimes=2', '--envs=2', '--steps=3',
                     '--repeats=1', f'--output={output}'])
  assert KIND in capsys.readouterr().out
  assert read(output)['environments'][KIND]['ns_per_step'] > 0


@pytest.mark.long
def test_meta_gradient(output):
  printed = run('meta_gradient', KIND, '--repeats=1', '--naive', *SIZES,
                f'--output={output}')
  assert 'over naive' in printed
  row = read(output)['environments'][KIND]
  assert row['steps_per_s'] > 0 and row['outer_us'] > 0


@pytest.mark.long
def test_program(output):
  program.main(['mixture', '--meta_steps=2', '--repeats=1',
                f'--output={output}', '--flags='
                f'--launch_type=embedded --set=environments={KIND} '
                '--set=rule.lstm_size=8 --set=meta.num_envs=4 '
                '--set=meta.num_lifetimes=2 --num_workers=1'])
  found = read(output)['mixture']
  assert found['ratio'] > 0 and len(found['runs']) == 2
  for (row,) in found['runs'].values():
    assert row['meta_steps'] == 2 and row['best_env_steps_per_s'] > 0
    assert row['peak_rss_mib'] > 50


@pytest.mark.long
def test_transport(output):
  run('transport', '--repeats=1', '--step_s=1', f'--output={output}')
  assert read(output)['share'] > 0.


@pytest.mark.long
def test_scale(output):
  run('scale', '--sources=1', '--seconds=0.5', f'--output={output}')
  (row,) = read(output)
  assert row['messages_per_s'] > 0


@pytest.mark.long
def test_atari(output):
  run('atari', '--turns=1', '--seconds=0.1', '--threads=1',
      f'--output={output}')
  assert read(output)['whole_frames_per_s'] > 0


def test_bandit_facade(capsys):
  bandit_facade.main(['--queries=80'])
  assert json.loads(capsys.readouterr().out)['queries_per_s'] > 0


@contextlib.contextmanager
def facade_of_a_run(run_dir):
  """What `bandit_load` needs of a run: its facade and growing metrics."""
  listener = socket.create_server(('127.0.0.1', 0))
  # Spawned: a fork of a process whose JAX has threads may hang.
  server = multiprocessing.get_context('spawn').Process(
      target=bandit_facade.serve, args=(listener,), daemon=True)
  server.start()
  address = f'127.0.0.1:{listener.getsockname()[1]}'
  (run_dir / 'launch.json').write_text(json.dumps(
      {'addresses': {'bandit_server': address}}))
  (run_dir / 'tmp' / 'pids').mkdir(parents=True)
  (run_dir / 'tmp' / 'pids' / 'bandit_facade').write_text(str(server.pid))
  (run_dir / 'metrics').mkdir()
  ended = threading.Event()

  def learn():
    step = 0
    with open(run_dir / 'metrics' / 'learner.jsonl', 'w') as f:
      while not ended.wait(0.01):
        f.write(json.dumps({'step': step}) + '\n')
        f.flush()
        step += 1

  learner = threading.Thread(target=learn)
  learner.start()
  with socket.create_connection(listener.getsockname(), timeout=60) as first:
    bandit_facade.ask([first])  # Waits for the start.
  yield
  ended.set()
  learner.join()
  server.terminate()
  server.join()


def test_bandit_load(tmp_path, capsys):
  with facade_of_a_run(tmp_path):
    bandit_load.main([f'--run_dir={tmp_path}', '--windows=2',
                      '--window_s=0.3', '--rate=100'])
  row = json.loads(capsys.readouterr().out)
  assert row['queries_per_s'] > 0 and row['meta_steps_per_s_alone'] > 0


@pytest.mark.long
def test_compare(output, monkeypatch):
  """Compares a tree with itself."""
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  compare.main([str(ROOT), str(ROOT), '--measure=meta_step,rule', '--pairs=1',
                '--repeats=1', f'--environments={KIND}', *SIZES,
                f'--output={output}'])
  rows = read(output)['measurements']
  assert set(rows) == {f'meta_step {KIND}', 'rule'}
  for row in rows.values():
    assert row['lowest'] == row['speed_up'] == row['highest'] > 0


@pytest.mark.parametrize('flags, message', [
    (['--measure=speed'], "'speed'; allowed: meta_step, rule, atari"),
    (['--environments=maze'], 'maze')])
def test_compare_refuses_in_one_line(flags, message, capsys):
  with pytest.raises(SystemExit):
    compare.main([str(ROOT), str(ROOT), *flags])
  assert message in capsys.readouterr().err.splitlines()[-1]


def test_compare_alternates():
  """The order of the trees changes from pair to pair."""
  times = iter([1., 2., 3., 1., 4., 2.])
  order = []

  def measure(tree):
    order.append(tree)
    return next(times)

  row = compare.compare('old', 'new', measure, 3)
  assert order == ['old', 'new', 'new', 'old', 'old', 'new']
  assert row['speed_ups'] == [0.5, 1 / 3, 2.]
  assert (row['lowest'], row['speed_up'], row['highest']) == (1 / 3, 0.5, 2.)
