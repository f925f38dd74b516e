"""Random decision processes: draws, transitions by hand, and exact returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy import stats

from lpg_distributed.envs import mdp_model
from lpg_distributed.envs import optimal
from lpg_distributed.envs import optimal_returns
from lpg_distributed.envs import random_mdp
from lpg_distributed.envs import suite
from tests.envs import env_testing

NUM = env_testing.NUM
NAMES = ('random_mdp', 'random_mdp_features')
EACH = pytest.mark.parametrize('name', NAMES)


def check_uniform_real(values, low, high):
  values = np.ravel(values)
  assert low <= values.min() and values.max() <= high
  assert stats.kstest(values, 'uniform', (low, high - low)).pvalue > 1e-6


def two_states(chance=1., ends=(), limit=50, name='random_mdp'):
  """Action 0 leads from state 0 to 1 and back; action 1 stays.

  With the rest of `chance`, action 0 stays too. The reward of (s, a) is
  10 s + a.
  """
  shape = (20, 5)
  successors = np.zeros((*shape, 2), np.int32)
  successors[0, 0], successors[1, 0] = (1, 0), (0, 1)
  successors[0, 1], successors[1, 1] = 0, 1
  ending = np.zeros(shape, bool)
  for pair in ends:
    ending[pair] = True
  reward = 10. * np.arange(20)[:, None] + np.arange(5)
  features = np.arange(160).reshape(20, 8) / 100.
  return jax.tree_util.tree_map(jnp.asarray, random_mdp.MdpParams(
      np.int32(2), np.int32(2), np.int32(limit), successors,
      np.full(shape, chance, np.float32), reward.astype(np.float32), ending,
      () if name == 'random_mdp' else features.astype(np.float32)))


def draws(num=4096, name='random_mdp'):
  environment = suite.load(name)
  return jax.tree_util.tree_map(
      np.asarray, optimal.draw_lifetimes(environment, num, 1))


def test_numbers_of_a_lifetime_are_uniform():
  params = draws()
  env_testing.check_uniform(params.num_states, range(4, 21))
  env_testing.check_uniform(params.num_actions, range(2, 6))
  env_testing.check_uniform(params.limit, range(20, 201))
  mask = jax.vmap(suite.load('random_mdp').action_mask)(params)
  np.testing.assert_array_equal(np.sum(mask, axis=1), params.num_actions)
  assert np.all(mask[:, :2])


def test_transitions_are_uniform_and_independent():
  params = draws()
  some = params.num_states == 7
  first, second = np.moveaxis(params.successors[some], -1, 0)
  env_testing.check_uniform(7 * first + second, range(49))
  check_uniform_real(params.first_chance[:, :4, 0], 0., 1.)


def test_rewards_are_normal_around_the_offset_of_a_lifetime():
  """Means and standard deviations are those of a lifetime's 100 pairs."""
  params = draws()
  mean = params.reward.mean(axis=(1, 2))
  deviation = params.reward.std(axis=(1, 2), ddof=1)
  error = 0.5 / 10.
  assert -0.2 - 5 * error < mean.min() < -0.1
  assert 0.5 < mean.max() < 0.6 + 5 * error
  assert abs(mean.mean() - 0.2) < 0.02 and abs(deviation.mean() - 0.3) < 0.02
  scaled = (params.reward - mean[:, None, None]) / deviation[:, None, None]
  assert stats.kstest(scaled[:, 0, 0], 'norm').pvalue > 1e-6
  assert abs(np.corrcoef(scaled[:, 0, 0], scaled[:, 0, 1])[0, 1]) < 0.1


def test_share_of_pairs_that_end_an_episode():
  """Uniform from 0 to 0.2, so 100 pairs have any number up to about 20."""
  ends = draws().ends.sum(axis=(1, 2))
  # The mean over p in [0, 0.2] of binomial chances.
  shares = np.linspace(0., 0.2, 2001)
  chances = stats.binom.pmf(np.arange(101)[:, None], 100, shares)
  chances = integrate.trapezoid(chances, shares, axis=1) / 0.2
  env_testing.check_distribution(np.bincount(ends, minlength=101), chances)


def test_features_are_normal_and_the_rest_is_equal():
  plain, params = draws(), draws(name='random_mdp_features')
  assert plain.features == ()
  for a, b in zip(plain[:-1], params[:-1]):
    np.testing.assert_array_equal(a, b)
  assert np.abs(params.features).max() == 3.
  inner = params.features[:, 3, 5]
  inner = inner[np.abs(inner) < 3.]
  assert stats.kstest(inner, stats.truncnorm(-3, 3).cdf).pvalue > 1e-6


def step(name, params, states, actions):
  return env_testing.step_each(suite.load(name), params,
                               np.transpose(np.array(states)), actions)


@EACH
def test_steps_by_hand(name):
  params = two_states(ends=[(1, 1)], name=name)
  new, timestep = step(name, params, [(0, 4), (0, 4), (1, 4), (1, 4)],
                       [0, 1, 0, 1])
  assert timestep.reward.tolist() == [0., 1., 10., 11.]
  assert timestep.discount.tolist() == [1., 1., 1., 0.]
  assert new.index[:3].tolist() == [1, 0, 0]
  assert new.time.tolist() == [5, 5, 5, 0]
  expected = (new.index if name == 'random_mdp'
              else np.asarray(params.features)[new.index])
  np.testing.assert_array_equal(timestep.observation, expected)


def test_limit_and_first_states():
  params = two_states(limit=30)._replace(num_states=jnp.int32(9))
  environment = suite.load('random_mdp')
  new, timestep = env_testing.step_many(environment, params, (0, 29), 1)
  assert not timestep.discount.any() and not new.time.any()
  env_testing.check_uniform(new.index, range(9))
  state, observation = env_testing.run(environment, 'reset', params)
  env_testing.check_uniform(state.index, range(9))
  np.testing.assert_array_equal(observation, state.index)
  state, _ = env_testing.run(environment, 'reset_midway', params)
  env_testing.check_uniform(30 * state.index + state.time, range(270))


@pytest.mark.parametrize('chance', [0.2, 0.9])
def test_chance_of_the_first_successor(chance):
  new, _ = env_testing.step_many(suite.load('random_mdp'), two_states(chance),
                                 (0, 3), 0)
  env_testing.check_chance((new.index == 1).sum(), NUM, chance)


def test_model_by_hand():
  """The best is to go to state 1, then to stay or, at last, to leave it."""
  def value(best, **changes):
    params = jax.tree_util.tree_map(lambda x: x[None], two_states(**changes))
    return mdp_model.start_values(mdp_model.of_random_mdp(params), best)[0]

  # From 0 and from 1, with reward 1 or 11 for the last step.
  assert value(True, limit=1) == (1. + 11.) / 2
  assert value(True, limit=3) == (0. + 11. + 11. + 3 * 11.) / 2
  assert value(True, limit=2, ends=[(1, 1)]) == ((0 + 11) + (10 + 1)) / 2
  assert value(False, limit=1) == (0. + 1. + 10. + 11.) / 4
  assert value(True, limit=2, chance=0.25) == (
      max(0.25 * 11 + 0.75 * 1, 1 + 1) + 22) / 2


def test_simulated_returns_agree_with_the_model():
  """Of the random policy, in 64 lifetimes."""
  environment = suite.load('random_mdp')
  params = optimal.draw_lifetimes(environment, 64, 5)
  repeated = jax.tree_util.tree_map(lambda x: jnp.repeat(x, 256, axis=0),
                                    params)
  returns = np.asarray(optimal.episode_returns(
      environment, repeated, jax.random.PRNGKey(6))).reshape(64, 256)
  mdps = mdp_model.of_random_mdp(params)
  expected = mdp_model.start_values(mdps, False)
  error = returns.std(axis=1, ddof=1) / 16.
  assert (np.abs(returns.mean(axis=1) - expected) < 5. * error).all()
  assert (mdp_model.start_values(mdps, True) > expected).all()


def test_returns_in_the_file():
  saved = optimal_returns.load()
  other = optimal.compute('random_mdp', num_episodes=128, seed=9)
  for key in ('optimal', 'random'):
    error = np.hypot(other[f'{key}_standard_error'],
                     saved['random_mdp'][f'{key}_standard_error'])
    for name in NAMES:
      assert abs(other[key] - saved[name][key]) <= 5. * error
