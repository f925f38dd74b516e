"""The fields of a job, and which jobs are refused before they start."""

import dataclasses

import chex
import jax
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import settings as settings_lib
from lpg_distributed.store import eta_file

CARTPOLE = 'gymnax/CartPole-v1'


@pytest.fixture(scope='module')
def etas(tmp_path_factory):
  """Files of a small rule of each kind."""
  root = tmp_path_factory.mktemp('etas')
  for kind in registry.learned():
    config = config_lib.RuleConfig(num_predictions=5, lstm_size=3, kind=kind)
    eta_file.save(str(root / f'{kind}.npz'),
                  rule_vector.init(config, jax.random.PRNGKey(0)), config)
  return root


def test_jobs_on_atari_have_the_settings_of_table_4():
  job = jobs.make_job('atari/breakout', 'a2c')
  assert (job.num_envs, job.preset) == (30, 'dm_noop')
  assert job.settings == settings_lib.AgentSettings()
  s = job.settings
  assert (s.learning_rate, s.kl_cost, s.gamma, s.trajectory_steps,
          s.optimiser, s.use_baseline, s.max_abs_reward) == (
              0.0005, 0.5, 0.995, 20, 'adam', True, 1.)


def test_jobs_on_gymnax_have_their_own_defaults_and_overrides():
  job = jobs.make_job(CARTPOLE, 'a2c', overrides=['entropy_cost=0.5',
                                                  'use_baseline=false'])
  assert job.preset is None and job.eta is None and job.rule_config is None
  assert job.settings == dataclasses.replace(
      settings_lib.AgentSettings(), learning_rate=2e-3, max_abs_reward=0.,
      entropy_cost=0.5, use_baseline=False)


def test_eta_sets_the_number_of_predictions(etas):
  job = jobs.make_job(CARTPOLE, 'lpg', eta=str(etas / 'lpg.npz'))
  assert job.rule_config.num_predictions == 5
  assert len(job.eta_sha256) == 64
  assert jobs.make_job(CARTPOLE, 'random').rule_config.lstm_size == 256
  for rule in ('lpg_v', 'lpg_vector'):
    jobs.make_job(CARTPOLE, rule, eta=str(etas / f'{rule}.npz'))


@pytest.mark.parametrize('kind', ['lpg', 'lpg_v', 'lpg_vector'])
def test_an_untrained_rule_is_of_the_kind_of_its_eta(etas, kind):
  job = jobs.make_job(CARTPOLE, 'random', eta=str(etas / f'{kind}.npz'))
  assert job.rule_config.kind == kind
  assert loading.make_rule(job).outputs.value == (kind == 'lpg_v')
  chex.assert_trees_all_equal_shapes(
      loading.load_eta(job, 0),
      rule_vector.init(job.rule_config, jax.random.PRNGKey(0)))


@pytest.mark.parametrize('arguments, message', [
    ({'environment': 'CartPole-v1'}, "'CartPole-v1' names no environment"),
    ({'environment': object()}, 'an environment of type object; allowed: '
     'a name such as'),
    ({'rule': 'dqn'}, "no rule 'dqn'; allowed: lpg, a2c, ppo, lpg_v, "
     'lpg_vector, random'),
    ({'rule': 'ppo', 'eta': 'lpg.npz'}, 'the rule ppo has no eta'),
    ({'rule': 'ppo', 'num_envs': 3}, 'minibatches is 4; allowed: up to the '
     'number of parallel environments, 3'),
    ({'overrides': ['clip_range=0']}, 'clip_range is 0.0; allowed: a number '
     '> 0'),
    ({'overrides': ['passes=0']}, 'passes is 0; allowed: a whole number'),
    ({'overrides': ['minibatches=1.5']}, 'minibatches is 1.5; allowed'),
    ({'rule': 'lpg'}, 'the rule lpg needs an eta'),
    ({'rule': 'lpg', 'eta': 'lpg_v.npz'}, 'holds a rule of kind lpg_v; allowed '
     'for lpg: lpg'),
    ({'rule': 'lpg_v', 'eta': 'lpg.npz'}, 'allowed for lpg_v: lpg_v'),
    ({'rule': 'lpg', 'eta': 'none.npz'}, 'there is no file'),
    ({'eta': 'lpg.npz'}, 'a2c has no eta'),
    ({'preset': 'machado'}, 'has no presets; allowed: on Atari only'),
    ({'env_steps': 0}, 'env_steps is 0; allowed: a whole number from 1'),
    ({'num_envs': 0}, 'num_envs is 0; allowed: a whole number from 1 to 65535'),
    ({'seeds': (1, 1)}, 'seeds is (1, 1); allowed: different'),
    ({'seeds': ()}, 'seeds is (); allowed'),
    ({'seeds': (2 ** 40,)}, f'seeds is {2 ** 40}; allowed: a whole number'),
    ({'seeds': (-1,)}, 'seeds is -1; allowed: a whole number from 0'),
    ({'seeds': (True,)}, 'seeds is True; allowed: a whole number'),
    ({'overrides': ['learning_rate=-1']}, 'learning_rate is -1.0; allowed: a '
     'number > 0'),
    ({'overrides': ['reward_scale=0']}, 'reward_scale is 0.0; allowed: a '
     'number > 0'),
    ({'overrides': ['gamma=1.5']}, 'gamma is 1.5; allowed: a number >= 0 '
     'and <= 1'),
    ({'overrides': ['kl_cost=nan']}, 'kl_cost is nan; allowed'),
    ({'overrides': ['trajectory_steps=0']}, 'trajectory_steps is 0'),
    ({'overrides': ['trajectory_steps=x']}, "trajectory_steps is 'x'; allowed"),
    ({'overrides': ['optimiser=rms']}, "optimiser is 'rms'; allowed: adam"),
    ({'overrides': ['use_baseline=maybe']}, "use_baseline is 'maybe'"),
    ({'overrides': ['num_predictions=3']}, "'num_predictions=3' is no setting"),
    ({'overrides': ['rate=3']}, "'rate=3' is no setting; allowed: NAME=VALUE"),
])
def test_invalid_jobs_are_refused(etas, arguments, message):
  arguments = {'environment': CARTPOLE, 'rule': 'a2c', **arguments}
  if 'eta' in arguments:
    arguments['eta'] = str(etas / arguments['eta'])
  with pytest.raises(ValueError) as info:
    jobs.make_job(**arguments)
  assert message in str(info.value) and '\n' not in str(info.value)


def test_settings_of_ppo_do_nothing_for_other_rules():
  """As `kl_cost` does nothing for A2C."""
  overrides = ['clip_range=0.1', 'passes=2', 'minibatches=9', 'kl_cost=1']
  for rule in ('a2c', 'random'):
    job = jobs.make_job(CARTPOLE, rule, num_envs=8, overrides=overrides)
    assert not loading.make_rule(job).several_passes
  job = jobs.make_job(CARTPOLE, 'ppo', num_envs=9, overrides=overrides)
  settings = job.settings
  assert (settings.clip_range, settings.passes, settings.minibatches) == (
      0.1, 2, 9)


def test_default_directories_name_environment_rule_and_seed():
  first = jobs.make_job(CARTPOLE, 'a2c', seeds=(3, 4))
  assert jobs.default_directory(first) == (
      'runs/meta_test/gymnax_CartPole-v1_a2c_seed3')
