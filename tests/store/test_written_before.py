"""Files that commit c49df80 wrote are still read, and its run is resumed."""

import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import files
from lpg_distributed import former_names
from lpg_distributed.core import rule_vector
from lpg_distributed.meta_testing import agent_checkpoint
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.nodes import atari_evaluation
from lpg_distributed.store import agent_file
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import run_directory

ROOT = os.path.join(os.path.dirname(__file__), 'written_before')


def stored(*names):
  return os.path.join(ROOT, *names)


def test_rules_are_read():
  file = eta_file.load(stored('run', 'eta.npz'))
  assert file.info['meta_step'] == 2 and file.rule.lstm_size == 4
  config = run_directory.read_config(stored('run'))
  assert config.rule == file.rule and config.run.meta_steps == 2


def test_agents_are_read():
  like = {'w': np.zeros((2, 3), np.float32), 'n': np.int32(0)}
  state, info = agent_file.load(stored('agent.npz'), like)
  assert info == {'env_steps': 7} and state['n'] == 4
  np.testing.assert_array_equal(state['w'], [[0, 1, 2], [3, 4, 5]])


def test_checkpoints_of_meta_tests_are_read():
  found = agent_checkpoint.load(stored('meta_test'))
  with np.load(stored('meta_test', agent_checkpoint.FILE)) as arrays:
    leaves = [arrays[f'leaf_{i}'] for i in range(len(arrays.files) - 1)]
  assert found.header['chunks'] > 0 and len(leaves) > 5
  for x, y in zip(agent_checkpoint.restore(found, leaves), leaves):
    np.testing.assert_array_equal(x, y)
  assert results.read(stored('meta_test')).job.environment == (
      'gymnax/Catch-bsuite')


def test_former_names_in_configurations_are_read(tmp_path):
  content = files.read_json(stored('run', 'config.json'))
  assert content['meta']['discounts'] and content['evaluator']['discount']
  content['meta']['discounts'], content['evaluator']['discount'] = [0.5], 0.25
  for config in (config_io.from_dict(content),
                 config_io.merge(config_lib.Config(),
                                 former_names.replace(content))):
    assert (config.meta.gammas, config.evaluator.gamma) == ((0.5,), 0.25)
  path = tmp_path / 'own.json'
  path.write_text('{"meta": {"discounts": [0.5]}}')
  config = config_io.load_file(config_lib.Config(), str(path))
  assert config.meta.gammas == (0.5,)


def test_former_names_in_results_of_meta_tests_are_read():
  found = results.read(stored('meta_test'))
  assert found.header['settings']['discount'] == found.job.settings.gamma
  results.check_same('there', found.header, results.make_header(found.job, 1))


def test_former_names_in_the_evaluators_agent_are_read(tmp_path):
  config, rule = config_lib.EvaluatorConfig(), config_lib.RuleConfig()
  evaluations = atari_evaluation.Evaluations(config, rule, str(tmp_path), 3,
                                             None)
  identity = evaluations._identity()  # pylint: disable=protected-access
  eta = np.ones(rule_vector.size(rule), np.float32)
  os.mkdir(tmp_path / 'evaluator')
  path = str(tmp_path / 'evaluator' / 'agent.npz')
  for gamma, same in ((config.gamma, True), (0.5, False)):
    former = {**identity, 'discount': gamma}
    del former['gamma']
    agent_file.save(path, {'eta': eta}, identity=former, meta_step=7,
                    game=config.games[0], record={'env_steps': 8})
    assert (evaluations.interrupted() is not None) == same


def test_flags_refuse_former_names():
  for text, name in (('meta.discounts=0.9', 'gammas'),
                     ('evaluator.discount=0.9', 'gamma')):
    with pytest.raises(config_lib.ConfigError, match=f'did you mean {name}\\?'):
      config_io.apply_overrides(config_lib.Config(), [text])
  with pytest.raises(jobs.JobError, match=r'allowed: .*\bgamma\b'):
    jobs.make_job('gymnax/CartPole-v1', 'a2c', overrides=['discount=0.9'])
  done = subprocess.run(
      [sys.executable, '-m', 'lpg_distributed', 'figure5', '--alpha_lr=1'],
      capture_output=True, text=True, timeout=100, check=False)
  assert done.returncode == 2 and done.stderr == (
      "error: Unknown command line flag 'alpha_lr'; it is now "
      '--learning_rate; --help shows all flags\n')


@pytest.mark.filterwarnings('ignore')
def test_a_run_is_resumed(tmp_path):
  run_dir = str(tmp_path / 'run')
  shutil.copytree(stored('run'), run_dir)
  assert checkpointing.latest(run_dir).meta_step == 2
  config = run_directory.read_config(run_dir)
  config = config_io.apply_overrides(config, ['run.meta_steps=4'])
  rule = lpg.meta_train(config, run_dir)
  assert rule.info['meta_step'] == 4
  if jax.__version_info__ < (0, 5):  # Later ones draw other random numbers.
    # The eta of a run of four steps then, perhaps on another processor.
    np.testing.assert_allclose(
        rule.eta, eta_file.load(stored('eta_of_step_4.npz')).eta, rtol=1e-4,
        atol=1e-6)
  before = eta_file.load(stored('run', 'eta.npz')).eta
  assert np.abs(rule.eta - before).max() > 1e-3
