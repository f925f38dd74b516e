"""The age of agents and the size of their rewards, as inputs of the rule."""

import dataclasses
import functools
import math

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import agent_life
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from tests.core import lifetime_testing
from tests.core import test_meta_gradient as windows
from tests.core import test_rule_kinds

RULE = dataclasses.replace(windows.RULE, sees_age=True,
                           reward_input='normalised')
K, L = lifetime_testing.K, lifetime_testing.L
WINDOWS = lifetime_testing.WINDOWS


def with_rule(config, rule=RULE):
  return dataclasses.replace(
      config, rule=rule, evaluator=config_lib.EvaluatorConfig(enabled=False))


# By hand.


def test_ages_by_hand():
  rule = registry.make_learned(RULE)
  first = agent_life.Age(jnp.array([0, 7, 19]), jnp.array([20, 20, 20]))
  life = agent_life.see(rule, agent_life.later(first, 3), None)
  np.testing.assert_allclose(life.relative_age, [3 / 20, 10 / 20, 1.])
  np.testing.assert_allclose(life.log_lifetime, [math.log(20.)] * 3, rtol=1e-6)
  ages = agent_life.ages(first, 2)
  np.testing.assert_array_equal(ages.done, [[0, 7, 19], [1, 8, 20]])
  np.testing.assert_array_equal(ages.lifetime, [[20] * 3] * 2)
  assert agent_life.begin(registry.make_learned(windows.RULE), 3, 20) is None
  assert agent_life.later(None, 3) is None and agent_life.ages(None, 3) is None


def test_signed_log_by_hand():
  reward = jnp.array([0., 1., -1., 99., -0.5])
  np.testing.assert_allclose(
      agent_life.reward_input('signed_log', reward),
      [0., math.log(2.), -math.log(2.), math.log(100.), -math.log(1.5)],
      rtol=1e-6)
  assert agent_life.reward_input('raw', reward) is reward


def test_the_running_mean_square_by_hand():
  """After each of three trajectories [T, L, B], with T = 2, L = 2, B = 3."""
  rng = np.random.default_rng(0)
  rewards = rng.normal(size=(3, 2, 2, 3)).astype(np.float32)
  rewards[:, :, 1] *= 1000.  # Lifetimes do not share their scale.
  state = jax.tree_util.tree_map(
      lambda x: jnp.stack([x, x]),
      agent_life.init_rewards(registry.make_learned(RULE)))
  square = np.zeros(2)
  for n, reward in enumerate(rewards, 1):
    state = agent_life.add_rewards(state, jnp.asarray(reward))
    square = 0.99 * square + 0.01 * np.mean(reward ** 2., axis=(0, 2))
    seen = agent_life.see_each(registry.make_learned(RULE), None, state)
    rms = np.sqrt(square / (1. - 0.99 ** n))
    np.testing.assert_allclose(seen.reward_rms[:, 0], rms, rtol=1e-4)
    np.testing.assert_allclose(
        agent_life.reward_input('normalised', reward, seen.reward_rms),
        reward / rms[:, None], rtol=1e-4)
    if n == 1:  # Nothing of the first value, 0, is left.
      np.testing.assert_allclose(rms ** 2., np.mean(reward ** 2, axis=(0, 2)),
                                 rtol=1e-5)


def test_rewards_that_are_all_zero_stay_zero():
  rule = registry.make_learned(RULE)
  reward = jnp.zeros((4, 2))
  state = agent_life.add_rewards(agent_life.init_rewards(rule), reward)
  seen = agent_life.see(rule, None, state)
  np.testing.assert_array_equal(agent_life.reward_input(
      'normalised', reward, seen.reward_rms), reward)


def make_experience(life=base.UNSEEN):
  config = windows.make_config('chain_short')
  kind, task, progress, _, _ = windows.make_window(config)
  output = meta_gradient.agent_outputs(
      kind, progress.theta, progress.trajectory.observation, task.env_params)
  experience = base.Experience(progress.trajectory._replace(
      reward=progress.trajectory.reward + 3.), output, life)
  return experience, meta_gradient.agent_hyper(task.hyper, 0.9), kind


def test_x_t_has_the_inputs_that_are_on():
  life = base.Life(jnp.array([[0.25], [0.5]]), jnp.array([[3.], [3.]]),
                   jnp.array([[2.], [4.]]))
  experience, hyper, kind = make_experience(life)
  y = kind.rule.y_input(experience)
  plain = rule_inputs.rule_input(experience, hyper, y)
  assert plain.relative_age is None and plain.log_lifetime is None
  np.testing.assert_array_equal(plain.reward, experience.trajectory.reward)
  seen = rule_inputs.rule_input(experience, hyper, y, RULE)
  np.testing.assert_allclose(
      seen.reward, plain.reward / np.array([2., 4.])[:, None], rtol=1e-6)
  for i, age in enumerate((0.25, 0.5)):
    assert np.all(np.asarray(seen.relative_age)[:, i] == age)
  assert np.all(np.asarray(seen.log_lifetime) == 3.)
  assert seen.log_lifetime.shape == plain.reward.shape
  assert rule_inputs.names(RULE) == (*rule_inputs.INPUTS, 'relative_age',
                                     'log_lifetime')
  assert rule_inputs.names(windows.RULE) == tuple(rule_inputs.INPUTS)
  assert [x.shape for x in rule_inputs.columns(rule_inputs.flatten(seen))] == (
      [(7, 2 * 3)] * 6)


@pytest.mark.parametrize('rule, missing', [
    (RULE, 'relative_age'),
    (dataclasses.replace(RULE, sees_age=False), 'reward_rms')])
def test_what_is_missing_is_named_in_one_line(rule, missing):
  experience, hyper, kind = make_experience()
  with pytest.raises(rule_inputs.MissingInputError,
                     match=f'needs {missing} of the agent') as error:
    rule_inputs.rule_input(experience, hyper, kind.rule.y_input(experience),
                           rule)
  assert '\n' not in str(error.value)


# The network.


def test_the_network_reads_the_age():
  """Its fast form equals the plain one, and each input has its own row."""
  rng = np.random.default_rng(0)
  numbers = lambda *shape: rng.random(shape).astype(np.float32)
  inputs = rule_inputs.RuleInput(
      numbers(6, 4), np.ones((6, 4), np.float32), numbers(6, 4), numbers(6, 4),
      numbers(7, 4, 5), numbers(6, 4), numbers(6, 4))
  eta = jax.tree_util.tree_map(
      lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
      rule_vector.init(RULE, jax.random.PRNGKey(0)))
  assert eta['lpg/lstm/linear']['w'].shape[0] == 8 + RULE.lstm_size
  assert rule_vector.size(RULE) == (
      rule_vector.size(windows.RULE) + 2 * 4 * RULE.lstm_size)
  fast = lpg_network.apply(eta, inputs)
  plain = lpg_network.apply_reference(eta, RULE, inputs)
  np.testing.assert_allclose(fast.pi_hat, plain.pi_hat, rtol=1e-4, atol=1e-5)
  for name in rule_inputs.names(RULE):
    held = lpg_network.hold_input(eta, name, 0.7)
    constant = inputs._replace(**{name: np.full((6, 4), 0.7, np.float32)})
    # d_t also decides where the state is reset.
    if name != 'discount_t':
      np.testing.assert_allclose(
          lpg_network.apply(held, inputs).pi_hat,
          lpg_network.apply(eta, constant).pi_hat, rtol=1e-4, atol=1e-5)
    assert np.any(np.abs(lpg_network.apply(held, inputs).pi_hat
                         - fast.pi_hat) > 1e-4), name


def test_a_rule_without_the_age_can_begin_one_that_sees_it():
  eta = rule_vector.init(windows.RULE, jax.random.PRNGKey(0))
  rng = np.random.default_rng(0)
  inputs = rule_inputs.RuleInput(
      *rng.random((4, 6, 4)).astype(np.float32),
      rng.random((7, 4, 5)).astype(np.float32))
  later = inputs._replace(relative_age=inputs.reward, log_lifetime=inputs.gamma)
  wide = lpg_network.add_age(eta)
  assert rule_vector.ravel(wide).size == rule_vector.size(RULE)
  np.testing.assert_allclose(lpg_network.apply(wide, later).pi_hat,
                             lpg_network.apply(eta, inputs).pi_hat,
                             rtol=1e-5, atol=1e-7)


def test_a_kind_that_does_not_read_them_refuses_them(monkeypatch):
  monkeypatch.setitem(registry.RULES, 'toy',
                      registry.Row('tests.core.toy_rule'))
  for field, value in (('sees_age', True), ('reward_input', 'signed_log')):
    rule = config_lib.RuleConfig(kind='toy', **{field: value})
    with pytest.raises(config_lib.ConfigError,
                       match=f'rule.{field} is .*kind toy does not read'):
      rule_vector.size(rule)
  with pytest.raises(config_lib.ConfigError, match='rule.reward_input is '
                     "'log'; allowed: raw, signed_log, normalised"):
    config_lib.RuleConfig(reward_input='log')


# Meta-training.


@pytest.mark.pinned
@pytest.mark.parametrize('kind', ['lpg', 'lpg_v'])
def test_equals_finite_differences(kind):
  """Also along the weights that read the age alone."""
  with windows.enable_x64():
    config = with_rule(windows.make_config('chain_short', num_updates=2),
                       dataclasses.replace(RULE, kind=kind))
    # Values that are not all 0, where phi's units have a kink.
    made, task, progress, keys, eta = test_rule_kinds.make_window(config)
    widen = lambda tree: jax.tree_util.tree_map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)
    eta = widen(eta)
    progress = progress._replace(
        theta=widen(progress.theta), opt_state=widen(progress.opt_state),
        value=widen(progress.value))
    task = task._replace(age=agent_life.Age(
        jnp.array([4, 10]), jnp.array([20, 20])))
    flat, unravel = flatten_util.ravel_pytree(eta)
    evaluate = jax.jit(jax.value_and_grad(lambda x: meta_gradient.window_loss(
        unravel(x), made, config, task, progress, keys)[0]))
    gradient = evaluate(flat)[1]
    rng = np.random.default_rng(0)
    zeros = jax.tree_util.tree_map(np.zeros_like, eta)
    directions = [jax.tree_util.tree_map(
        lambda x: rng.normal(size=x.shape), eta)]
    for name in ('reward', *rule_inputs.AGE_INPUTS):
      row = np.zeros(eta['lpg/lstm/linear']['w'].shape)
      row[rule_inputs.index(name)] = rng.normal(size=row.shape[1])
      directions.append({**zeros, 'lpg/lstm/linear': {
          **zeros['lpg/lstm/linear'], 'w': row}})
    for direction in directions:
      d = flatten_util.ravel_pytree(direction)[0]
      d = d / jnp.linalg.norm(d)
      value = lambda s, d=d: float(evaluate(flat + s * d)[0])
      central = lambda h, value=value: (value(h) - value(-h)) / (2 * h)
      difference = (4. * central(5e-7) - central(1e-6)) / 3.
      slope = float(gradient @ d)
      assert abs(slope) > 1e-9
      np.testing.assert_allclose(slope, difference, rtol=2e-4, atol=2e-8)


SEES_AGE = dataclasses.replace(lifetime_testing.RULE, sees_age=True)


def age_alone(rule):
  """Returns an eta whose pi_hat depends on t / T and log T of its step alone.

  The forget gates are closed, and weights of other inputs are 0.
  """
  eta = jax.tree_util.tree_map(
      jnp.zeros_like, rule_vector.init(rule, jax.random.PRNGKey(0)))
  size = rule.lstm_size
  w = eta['lpg/lstm/linear']['w']
  for name, scale in (('relative_age', 1.), ('log_lifetime', 0.1)):
    w = w.at[rule_inputs.index(name), :2 * size].set(scale)
  b = jnp.zeros(4 * size).at[2 * size:3 * size].set(-100.)
  return {**eta, 'lpg/lstm/linear': {'w': w, 'b': b}, 'lpg/pi_hat': {
      **eta['lpg/pi_hat'], 'w': jnp.full((size, 1), 0.05)}}


def pi_hat_at(rule, done, total):
  """The pi_hat of `age_alone` at given ages, [n]."""
  zeros = np.zeros((1, len(done)), np.float32)
  return np.asarray(lpg_network.apply_reference(
      age_alone(rule), rule, rule_inputs.RuleInput(
          zeros, zeros, zeros, zeros,
          np.zeros((2, len(done), rule.num_predictions), np.float32),
          np.float32(np.asarray(done)[None] / total),
          zeros + np.float32(math.log(total)))).pi_hat[0])


@functools.lru_cache(maxsize=None)
def run_chain(reward_input, norm):
  """WINDOWS + 2 meta-steps with a rule that reads the age alone."""
  rule = dataclasses.replace(SEES_AGE, reward_input=reward_input)
  chain = lifetime_testing.Kind('chain_short', rule, min_policy_entropy=0.,
                                max_lifetime_gradient_norm=norm)
  chain.eta = rule_vector.ravel(age_alone(rule))
  states, metrics = chain.run(WINDOWS + 1)
  last = chain.step(states[-1], WINDOWS + 1)
  return states, last, [*metrics, last[-1]]


@pytest.fixture(scope='module', autouse=True)
def _clear_cache():
  yield
  run_chain.cache_clear()


@pytest.mark.parametrize('norm', [
    0., pytest.param(1., marks=pytest.mark.pinned)])
def test_each_lifetime_has_its_own_age(norm):
  """Staggered at first, and 0 where a new lifetime begins.

  With a limit of each lifetime's gradient they are computed one by one.
  """
  _, _, metrics = run_chain('raw', norm)
  assert len(set(metrics[0].age)) > 2 and metrics[1].ended.any()
  total = WINDOWS * K
  table = pi_hat_at(SEES_AGE, np.arange(total), total)
  assert np.diff(table).min() > 1e-4
  for row in metrics:
    done = (row.age[:, None] - 1) * K + np.arange(K)
    np.testing.assert_allclose(row.pi_hat_square,
                               np.mean(table[done] ** 2, axis=1), rtol=1e-4)


def test_agents_of_a_fixed_rule_have_the_age_of_their_updates():
  config = lifetime_testing.make_config('chain_short', SEES_AGE)
  eta = rule_vector.ravel(age_alone(SEES_AGE))
  found = jax.jit(lambda eta: train_agents.train_agents(
      config, 'chain_short', eta, jax.random.PRNGKey(0), L, jnp.zeros(9),
      updates=5))(eta)
  np.testing.assert_allclose(found.input_means['relative_age'],
                             np.arange(5)[:, None] / 5 * np.ones(L), rtol=1e-6)
  np.testing.assert_allclose(found.input_means['log_lifetime'],
                             np.full((5, L), math.log(5.)), rtol=1e-6)


def test_normalised_rewards_change_nothing_but_the_input():
  """A rule that reads no reward learns and is judged as with raw rewards."""
  states, (gradient, last, metrics), _ = run_chain('normalised', 0.)
  _, (raw_gradient, raw_last, raw_metrics), _ = run_chain('raw', 0.)
  assert raw_last.progress.reward_square is None
  jax.tree_util.tree_map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
      (last.progress._replace(reward_square=None), metrics),
      (raw_last.progress, raw_metrics))
  assert np.any(np.abs(gradient - raw_gradient) > 1e-6)  # Weights of rewards.
  # The state counts the trajectories of its lifetime: the first, and K more in
  # each window. It is a moving average of squared rewards.
  ages = np.array(states[1].age)
  count = np.array(states[1].progress.reward_square.count)
  np.testing.assert_array_equal(count, K + 1)
  assert len(set(ages)) > 1  # Staggered ages are not ages of its rewards.
  reward = np.asarray(last.progress.trajectory.reward, np.float64)
  for old, new in zip(states[1:], states[2:]):
    fresh = np.array(old.ended)
    before = np.array(old.progress.reward_square.count)
    np.testing.assert_array_equal(new.progress.reward_square.count,
                                  np.where(fresh, 1, before) + K)
  assert np.all(np.isin(reward, (-1., 0., 1.)))


def test_an_age_does_not_stay_in_the_state():
  """So checkpoints of runs with and without it have the same parts."""
  shard = lifetime.make_shard(lifetime_testing.make_config(
      'chain_short', SEES_AGE), 'chain_short', L)
  plain = lifetime.make_shard(lifetime_testing.make_config('chain_short'),
                              'chain_short', L)
  same = jax.tree_util.tree_structure
  assert same(shard.empty()) == same(plain.empty())
