"""What the program does when it is interrupted, or when a node dies."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from lpg_distributed.launch import process_environment
from tests import chaos
from tests import waiting

pytestmark = pytest.mark.processes

# The shapes of other tests, so that their compiled programs are used.
OVERRIDES = (*chaos.OVERRIDES, 'run.meta_steps=1000000',
             'run.checkpoint_period_steps=50')


class Run:
  """The program, started as a user would, in a session of its own."""

  def __init__(self, run_dir: pathlib.Path, *arguments):
    self.run_dir = run_dir
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'launch.meta_train', '--preset=demo',
         f'--run_dir={run_dir}', '--launch_type=local_mp',
         *(f'--set={override}' for override in OVERRIDES), *arguments],
        env={**os.environ, **process_environment.with_packages(
            chaos.QUICK_COMPILATION)},
        stderr=subprocess.PIPE, text=True, start_new_session=True)

  def wait_for_steps(self, count: int) -> None:
    metrics = self.run_dir / 'metrics' / 'learner.jsonl'
    waiting.until(lambda: waiting.lines(metrics) >= count,
                  f'{count} meta-steps', process=self.process)

  def nodes(self) -> dict[str, int]:
    """Process ids by label."""
    pids = self.run_dir / 'tmp' / 'pids'
    return {file.name.replace('.', '/'): int(file.read_text())
            for file in pids.iterdir()}

  def logs(self) -> str:
    """The ends of the nodes' logs, which show why a node hung."""
    return ''.join(
        f'== {path}\n{path.read_text(errors="replace")[-2000:]}\n'
        for path in sorted((self.run_dir / 'logs').rglob('*'))
        if path.is_file())

  def end(self) -> tuple[int, str]:
    """Waits for the end; returns the exit code and the standard error."""
    _, stderr = self.process.communicate(timeout=waiting.PATIENCE_S)
    return self.process.returncode, stderr


@pytest.fixture
def start(tmp_path):
  runs = []

  def make(*arguments):
    runs.append(Run(tmp_path / 'run', *arguments))
    return runs[-1]

  yield make
  for run in runs:
    if run.process.poll() is None:
      os.killpg(run.process.pid, signal.SIGKILL)


def assert_gone(pids):
  assert not [pid for pid in pids if waiting.is_alive(pid)]


@pytest.mark.long
def test_ctrl_c_reaches_every_process_and_ends_with_a_checkpoint(start):
  """A terminal sends SIGINT to the launcher and to all of its nodes."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  run = start(f'--bandit_port={port}')
  run.wait_for_steps(3)
  nodes = run.nodes()
  os.killpg(run.process.pid, signal.SIGINT)
  code, stderr = run.end()
  assert code == 128 + signal.SIGINT, stderr
  assert 'the same command resumes' in stderr
  assert_gone(nodes.values())
  steps = waiting.lines(run.run_dir / 'metrics' / 'learner.jsonl')
  assert (run.run_dir / 'checkpoints' / f'step_{steps:08d}' / 'manifest.json'
          ).exists(), run.logs()
  assert not (run.run_dir / 'launch.json').exists()
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(('localhost', port))


@pytest.mark.long
def test_a_dead_node_that_is_not_started_again_ends_the_program(start):
  label = 'lifetime_worker/0'
  run = start('--max_restarts=0', '--set=run.num_workers=1')
  run.wait_for_steps(60)  # The first checkpoint is of meta-step 50.
  nodes = run.nodes()
  os.kill(nodes[label], signal.SIGKILL)
  code, stderr = run.end()
  assert code == 1, stderr
  assert f'node {label} ended (signal SIGKILL)' in stderr
  assert f'node {label} ended for good (signal SIGKILL)' in stderr
  assert list((run.run_dir / 'checkpoints').glob('step_*/manifest.json'))
  assert os.path.join('logs', label) in stderr
  assert_gone(nodes.values())


@pytest.mark.long
def test_a_run_whose_node_is_terminated_is_not_complete(start):
  """The run ends with a checkpoint and can be resumed."""
  run = start('--set=run.num_workers=1')
  run.wait_for_steps(2)
  os.kill(run.nodes()['lifetime_worker/0'], signal.SIGTERM)
  code, stderr = run.end()
  assert code == 1
  assert 'a node was told to end' in stderr
  assert 'the same command resumes from the last checkpoint' in stderr
  assert list((run.run_dir / 'checkpoints').iterdir())


@pytest.mark.parametrize('delay_s', [
    0.5, pytest.param(1.5, marks=pytest.mark.long)])
def test_an_early_signal_is_not_lost(start, delay_s):
  """It may come before anything handles signals."""
  run = start()
  waiting.until((run.run_dir / 'config.json').exists, 'the configuration',
                process=run.process)
  time.sleep(delay_s)
  run.process.send_signal(signal.SIGTERM)
  code, stderr = run.end()
  assert code in (128 + signal.SIGTERM, -signal.SIGTERM), stderr
