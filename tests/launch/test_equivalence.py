"""Embedded, one worker and three workers give the same eta, bit for bit.

They use real processes, a real Reverb queue and real RPC, on a mixture of
kinds. A run that is stopped by a signal and resumed gives the same eta, too.
"""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from lpg_distributed.launch import process_environment
from lpg_distributed.store import eta_file
from tests import waiting

pytestmark = [pytest.mark.processes, pytest.mark.long]

# A table, a chain, a network on planes and one on bits; lifetimes that end,
# so that the bandit's answers matter.
OVERRIDES = (
    'environments=chain_short,tabular_sparse,random_small,'
    'chain_state_distraction',
    'agents.*.lifetime_env_steps=80',
    'rule.lstm_size=8', 'rule.num_predictions=6',
    'meta.num_lifetimes=10', 'meta.num_envs=4', 'meta.trajectory_steps=5',
    'meta.num_updates=2', 'meta.learning_rate=0.01',
    'run.meta_steps=6', 'run.lifetimes_per_shard=2',
    'run.checkpoint_period_steps=2', 'evaluator.enabled=false',
)


def command(run_dir, *arguments):
  return [sys.executable, '-m', 'launch.meta_train', '--preset=demo',
          '--noevaluate', f'--run_dir={run_dir}',
          *(f'--set={override}' for override in OVERRIDES), *arguments]


def environment():
  """As users have it: with all of the compiler's optimisations."""
  return {**os.environ, **process_environment.with_packages({}),
          'JAX_DISABLE_MOST_OPTIMIZATIONS': '0'}


def train(run_dir, *arguments):
  result = subprocess.run(command(run_dir, *arguments), env=environment(),
                          capture_output=True, text=True,
                          timeout=waiting.PATIENCE_S)
  assert result.returncode == 0, result.stderr
  return result


def eta_of(run_dir):
  file = eta_file.load(os.path.join(run_dir, 'eta.npz'))
  assert file.info['meta_step'] == 6
  return file.eta


@pytest.fixture(scope='module')
def embedded(tmp_path_factory):
  """The reference: one process, one worker."""
  run_dir = tmp_path_factory.mktemp('runs') / 'embedded'
  train(run_dir, '--launch_type=embedded', '--num_workers=1')
  with open(run_dir / 'metrics' / 'learner.jsonl', encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  assert [row['step'] for row in rows] == list(range(6))
  assert sum(row['lifetimes_ended'] for row in rows) > 10
  return eta_of(run_dir)


@pytest.mark.parametrize('arguments', [
    ('--launch_type=embedded', '--num_workers=3'),
    ('--launch_type=local_mt', '--num_workers=2'),
    ('--launch_type=local_mp', '--num_workers=1'),
    ('--launch_type=local_mp', '--num_workers=3'),
])
def test_launch_types_and_workers_give_the_same_eta(
    embedded, arguments, tmp_path):
  train(tmp_path / 'run', *arguments)
  np.testing.assert_array_equal(eta_of(tmp_path / 'run'), embedded)


def test_lifetimes_by_cost_give_the_same_eta_too(embedded, tmp_path):
  """With a kind whose convolution makes it expensive."""
  by_cost = ('--set=lifetimes_by=cost', '--set=agents.random_small.conv=16')
  etas = []
  for launch_type, workers in (('embedded', 1), ('local_mp', 2)):
    run_dir = tmp_path / launch_type
    train(run_dir, f'--launch_type={launch_type}', f'--num_workers={workers}',
          *by_cost)
    etas.append(eta_of(run_dir))
  np.testing.assert_array_equal(*etas)
  assert np.any(etas[0] != embedded)
  refused = subprocess.run(
      command(tmp_path / 'embedded', '--launch_type=embedded', by_cost[1]),
      env=environment(), capture_output=True, text=True,
      timeout=waiting.PATIENCE_S)
  assert refused.returncode
  assert 'lifetimes_by: cost -> share' in refused.stderr


def test_another_seed_gives_another_eta(embedded, tmp_path):
  train(tmp_path / 'run', '--launch_type=embedded', '--seed=1')
  assert np.any(eta_of(tmp_path / 'run') != embedded)


@pytest.mark.parametrize('launch_type, number', [
    ('embedded', signal.SIGTERM), ('local_mp', signal.SIGINT)])
def test_a_stopped_and_resumed_run_gives_the_same_eta(
    embedded, launch_type, number, tmp_path):
  """A signal in the middle ends with a checkpoint at that meta-step."""
  run_dir = tmp_path / 'run'
  metrics = run_dir / 'metrics' / 'learner.jsonl'
  process = subprocess.Popen(
      command(run_dir, f'--launch_type={launch_type}', '--num_workers=2'),
      env=environment(), stderr=subprocess.PIPE, text=True,
      start_new_session=True)
  waiting.until(lambda: waiting.lines(metrics), 'a meta-step', process=process)
  process.send_signal(number)
  _, stderr = process.communicate(timeout=waiting.PATIENCE_S)
  if process.returncode != 0:  # It may have ended just before.
    assert process.returncode == 128 + number, stderr
    assert 'the same command resumes' in stderr
  result = train(run_dir, f'--launch_type={launch_type}', '--num_workers=3')
  assert 'goes on at meta-step' in result.stderr
  np.testing.assert_array_equal(eta_of(run_dir), embedded)
  rows = [json.loads(line)['step']
          for line in metrics.read_text().splitlines()]
  assert rows == list(range(6))


def test_asynchronous_mode_drops_and_counts_stale_gradients(tmp_path):
  """It updates on any two gradients."""
  train(tmp_path / 'run', '--launch_type=local_mp', '--num_workers=2',
        '--set=run.mode=async', '--set=run.gradients_per_update=2',
        '--set=run.max_staleness=1')
  with open(tmp_path / 'run' / 'metrics' / 'learner.jsonl',
            encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  assert [row['step'] for row in rows] == list(range(6))
  assert all(0. <= row['staleness'] <= 1. for row in rows)
  stale = [row['stale'] for row in rows]
  assert stale == sorted(stale)
  assert np.all(np.isfinite(eta_of(tmp_path / 'run')))
