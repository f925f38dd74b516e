"""Files that commit c49df80 wrote are still read, and its run goes on."""

import os
import shutil

import jax
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config_io
from lpg_distributed.meta_testing import agent_checkpoint
from lpg_distributed.meta_testing import results
from lpg_distributed.store import agent_file
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import run_directory

ROOT = os.path.join(os.path.dirname(__file__), 'written_before')


def stored(*names):
  return os.path.join(ROOT, *names)


def test_rules():
  file = eta_file.load(stored('run', 'eta.npz'))
  assert file.info['meta_step'] == 2 and file.rule.lstm_size == 4
  config = run_directory.read_config(stored('run'))
  assert config.rule == file.rule and config.run.meta_steps == 2


def test_agents():
  like = {'w': np.zeros((2, 3), np.float32), 'n': np.int32(0)}
  state, info = agent_file.load(stored('agent.npz'), like)
  assert info == {'env_steps': 7} and state['n'] == 4
  np.testing.assert_array_equal(state['w'], [[0, 1, 2], [3, 4, 5]])


def test_checkpoints_of_meta_tests():
  found = agent_checkpoint.load(stored('meta_test'))
  with np.load(stored('meta_test', agent_checkpoint.FILE)) as arrays:
    leaves = [arrays[f'leaf_{i}'] for i in range(len(arrays.files) - 1)]
  assert found.header['chunks'] > 0 and len(leaves) > 5
  for x, y in zip(agent_checkpoint.restore(found, leaves), leaves):
    np.testing.assert_array_equal(x, y)
  assert results.read(stored('meta_test')).job.environment == (
      'gymnax/Catch-bsuite')


@pytest.mark.filterwarnings('ignore')
def test_a_run_goes_on(tmp_path):
  run_dir = str(tmp_path / 'run')
  shutil.copytree(stored('run'), run_dir)
  assert checkpointing.latest(run_dir).meta_step == 2
  config = run_directory.read_config(run_dir)
  config = config_io.apply_overrides(config, ['run.meta_steps=4'])
  rule = lpg.meta_train(config, run_dir)
  assert rule.info['meta_step'] == 4
  if jax.__version_info__ < (0, 5):  # Later ones draw other random numbers.
    # What one run of four steps gave then, perhaps on another processor.
    np.testing.assert_allclose(
        rule.eta, eta_file.load(stored('eta_of_step_4.npz')).eta, rtol=1e-4,
        atol=1e-6)
  before = eta_file.load(stored('run', 'eta.npz')).eta
  assert np.abs(rule.eta - before).max() > 1e-3
