"""Rules that see more than the paper's: from meta-training to a user's call."""

import dataclasses
import json
import math

import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed.nodes import initial_rule
from lpg_distributed.store import eta_file
from lpg_distributed.store import tree_file

TINY = ('environments=chain_short', 'rule.lstm_size=4',
        'rule.num_predictions=3', 'meta.num_lifetimes=3', 'meta.num_envs=2',
        'meta.trajectory_steps=5', 'meta.num_updates=2',
        'agents.chain_short.lifetime_env_steps=60', 'run.num_workers=1',
        'run.lifetimes_per_shard=2', 'evaluator.enabled=false')
OPTIONS = ('rule.sees_age=true', 'rule.reward_input=normalised')


def make_config(*more):
  return lpg.load_config('demo', *TINY, *more)


@pytest.fixture(name='rule', scope='module')
def _rule(tmp_path_factory):
  """A rule of five meta-steps without interruption."""
  return lpg.meta_train(make_config(*OPTIONS, 'run.meta_steps=5'),
                        str(tmp_path_factory.mktemp('run')))


def test_a_resumed_run_gives_the_same_bits(rule, tmp_path):
  first = lpg.meta_train(make_config(*OPTIONS, 'run.meta_steps=2'),
                         str(tmp_path))
  again = lpg.meta_train(make_config(*OPTIONS, 'run.meta_steps=5'),
                         str(tmp_path))
  np.testing.assert_array_equal(again.eta, rule.eta)
  assert np.any(first.eta != rule.eta)
  assert again.config.sees_age and again.config.reward_input == 'normalised'


def trajectory(num_predictions=3):
  rng = np.random.default_rng(0)
  return {'reward': rng.normal(size=(6, 4)), 'discount': np.ones((6, 4)),
          'gamma': 0.99, 'action_probability': rng.random((6, 4)),
          'y': rng.dirichlet(np.ones(num_predictions), (7, 4))}


def test_apply_rule_takes_what_the_rule_sees(rule):
  seen = {'relative_age': 0.25, 'log_lifetime': math.log(100.),
          'reward_rms': 2.}
  found = lpg.apply_rule(rule, **trajectory(), **seen)
  # The same, by an array per step.
  full = {name: np.full((6, 4), x) for name, x in seen.items()}
  np.testing.assert_array_equal(
      lpg.apply_rule(rule, **trajectory(), **full).pi_hat, found.pi_hat)
  for name in seen:
    other = lpg.apply_rule(rule, **trajectory(), **{**seen, name: 0.7})
    assert np.any(other.pi_hat != found.pi_hat), name
  # Rewards and their root mean square by one factor give the same.
  scaled = {**trajectory(), 'reward': 10. * trajectory()['reward']}
  np.testing.assert_allclose(
      lpg.apply_rule(rule, **scaled, **{**seen, 'reward_rms': 20.}).pi_hat,
      found.pi_hat, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('missing', ['relative_age', 'log_lifetime',
                                     'reward_rms'])
def test_a_missing_input_is_one_line(rule, missing):
  seen = {'relative_age': 0.25, 'log_lifetime': 4., 'reward_rms': 2.}
  del seen[missing]
  with pytest.raises(errors.UserError,
                     match=f'this rule needs {missing} .*; needed: ') as error:
    lpg.apply_rule(rule, **trajectory(), **seen)
  assert '\n' not in str(error.value)


def test_wrong_shapes_are_one_line(rule):
  with pytest.raises(lpg.ArgumentError if hasattr(lpg, 'ArgumentError')
                     else errors.UserError, match=r'relative_age has shape '
                     r'\(6,\); with a reward of shape \(6, 4\)'):
    lpg.apply_rule(rule, **trajectory(), relative_age=np.ones(6),
                   log_lifetime=1., reward_rms=1.)


def test_other_rules_ignore_the_age():
  rule = lpg.create_rule(0, config_lib.RuleConfig(3, lstm_size=4))
  found = [lpg.apply_rule(rule, **trajectory(), **seen).pi_hat for seen in (
      {}, {'relative_age': 0.5, 'log_lifetime': 3., 'reward_rms': 2.})]
  np.testing.assert_array_equal(*found)


def test_signed_log_is_applied_for_the_user():
  config = config_lib.RuleConfig(3, lstm_size=4)
  signed = lpg.create_rule(0, dataclasses.replace(config,
                                                  reward_input='signed_log'))
  plain = lpg.create_rule(0, config)
  np.testing.assert_array_equal(signed.eta, plain.eta)
  reward = trajectory()['reward']
  by_hand = {**trajectory(),
             'reward': np.sign(reward) * np.log1p(np.abs(reward))}
  np.testing.assert_allclose(lpg.apply_rule(signed, **trajectory()).pi_hat,
                             lpg.apply_rule(plain, **by_hand).pi_hat,
                             rtol=1e-4, atol=1e-7)


def test_agents_learn_by_the_rule(rule):
  found = lpg.train_agents(rule, 'chain_short', learning_rate=20., kl_cost=0.5,
                           num_agents=2, num_envs=4, updates=3)
  np.testing.assert_allclose(found.input_means['relative_age'],
                             np.arange(3)[:, None] / 3. * np.ones(2), rtol=1e-6)
  for environment in ('chain', 'Corridor'):  # Compiled, and on the host.
    result = lpg.meta_test(
        rule, f'module/tests.meta_testing.session_testing:{environment}',
        env_steps=60, num_envs=2, trajectory_steps=5)
    assert np.isfinite(result.curves[0].returns).any()


# Files.


def read_rule(path):
  with tree_file.open_tree(str(path)) as saved:
    return saved.read_header()['rule']


def test_files_of_other_rules_are_as_before(tmp_path, rule):
  path = str(tmp_path / 'eta.npz')
  plain = lpg.create_rule(0, config_lib.RuleConfig(3, lstm_size=4))
  lpg.save_rule(path, plain)
  assert read_rule(path) == {
      'num_predictions': 3, 'embedding_size': 16, 'lstm_size': 4,
      'kind': 'lpg', 'sees_policy': True}
  assert lpg.load_rule(path).config == plain.config
  lpg.save_rule(path, rule)
  assert read_rule(path)['sees_age'] is True
  loaded = lpg.load_rule(path)
  assert loaded.config == rule.config
  np.testing.assert_array_equal(loaded.eta, rule.eta)


def test_a_configuration_without_the_options_is_read():
  values = json.loads(json.dumps(config_io.to_dict(make_config())))
  for name in ('sees_age', 'reward_input'):
    assert name in values['rule']
    del values['rule'][name]
  assert config_io.from_dict(values) == make_config()


def test_a_run_may_begin_with_a_rule_without_the_options(tmp_path):
  path = str(tmp_path / 'eta.npz')
  config = make_config(*OPTIONS, f'run.initial_rule={path}')
  plain = lpg.create_rule(0, make_config().rule)
  lpg.save_rule(path, plain)
  eta = np.asarray(initial_rule.first_state(config).eta)
  begun = lpg.Rule(eta, config.rule)
  reward = trajectory()['reward']
  np.testing.assert_allclose(
      lpg.apply_rule(begun, **trajectory(), relative_age=0.7, log_lifetime=5.,
                     reward_rms=1.).pi_hat,
      lpg.apply_rule(plain, **{**trajectory(), 'reward': reward}).pi_hat,
      rtol=1e-5, atol=1e-7)
  # Not the other way round: such a rule would lose an input.
  eta_file.save(path, eta, config.rule)
  with pytest.raises(config_lib.ConfigError, match='run.initial_rule'):
    initial_rule.first_state(make_config(f'run.initial_rule={path}'))
