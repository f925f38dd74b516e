"""Survival tasks: draws, transitions by hand, and exact chances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lpg_distributed.envs import mdp_model
from lpg_distributed.envs import optimal
from lpg_distributed.envs import optimal_returns
from lpg_distributed.envs import suite
from lpg_distributed.envs import survival
from tests.envs import env_testing

NUM = env_testing.NUM


def check_continuous(values, low, high):
  """Numbers are uniform between two bounds, by a Kolmogorov-Smirnov test."""
  values = np.ravel(values)
  assert low <= values.min() and values.max() <= high
  assert stats.kstest(values, 'uniform', (low, high - low)).pvalue > 1e-6


def chain(length=5, limit=50, slip=0., reward=0.5, directions=0b10110):
  """A lifetime of the chain; bit i is the action that leads right in cell i."""
  return survival.WalkParams(
      jnp.int32(length), jnp.int32(limit), jnp.float32(slip),
      jnp.float32(reward), jnp.uint32(directions))


def step_chain(params, states, actions):
  """`states` are rows of (cell, time)."""
  return env_testing.step_each(suite.load('survival_chain'), params,
                               np.transpose(np.array(states)), actions)


def test_constants_of_chains_are_uniform_and_independent():
  params = env_testing.run(suite.load('survival_chain'), 'init_params')
  env_testing.check_uniform(params.length, range(5, 16))
  env_testing.check_uniform(params.limit, range(50, 201))
  check_continuous(params.slip, 0., 0.3)
  check_continuous(params.reward, 0.2, 1.2)
  bits = params.directions[:, None] >> np.arange(15, dtype=np.uint32) & 1
  for bit in bits.T:
    env_testing.check_chance(bit.sum(), NUM, 0.5)
  columns = np.column_stack([params.length, params.limit, params.slip,
                             params.reward, bits])
  correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
  assert np.abs(correlation).max() < 6. / np.sqrt(NUM)


def test_chain_by_hand():
  """In cells 1, 2 and 4 action 1 leads right, in cells 0 and 3 action 0."""
  params = chain()
  states = [(cell, 3) for cell in range(5) for _ in range(2)]
  new, timestep = step_chain(params, states, [0, 1] * 5)
  assert (timestep.reward == np.float32(0.5)).all()  # Also where it fails.
  expected = [1, -1, 0, 2, 1, 3, 4, 2, 3, 5]
  for i, cell in enumerate(expected):
    if cell in (-1, 5):
      assert timestep.discount[i] == 0 and new.time[i] == 0
    else:
      assert timestep.discount[i] == 1 and new.time[i] == 4
      assert new.cell[i] == timestep.observation[i] == cell


def test_chain_ends_at_the_limit():
  _, timestep = step_chain(chain(limit=50), [(2, 48), (2, 49)], [0, 0])
  assert timestep.discount.tolist() == [1., 0.]
  assert timestep.reward.tolist() == [0.5, 0.5]


@pytest.mark.parametrize('slip', [0.1, 0.3])
def test_chance_of_a_slip(slip):
  new, _ = env_testing.step_many(suite.load('survival_chain'),
                                 chain(slip=slip), (2, 0), 1)
  env_testing.check_uniform(new.cell[new.cell > 2], [3])
  env_testing.check_chance((new.cell == 1).sum(), NUM, slip)


def test_chain_starts_in_a_uniform_cell():
  """At first, and after an end that a slip has caused."""
  environment, params = suite.load('survival_chain'), chain(7, slip=0.3)
  state, observation = env_testing.run(environment, 'reset', params)
  env_testing.check_uniform(state.cell, range(7))
  np.testing.assert_array_equal(state.cell, observation)
  assert not state.time.any()
  new, timestep = env_testing.step_many(environment, params, (0, 9), 0)
  slipped = timestep.discount == 0.
  env_testing.check_chance(slipped.sum(), NUM, 0.3)
  env_testing.check_uniform(new.cell[slipped], range(7))
  state, _ = env_testing.run(environment, 'reset_midway', params)
  env_testing.check_uniform(state.time, range(50))
  env_testing.check_uniform(state.cell, range(7))


def test_chain_model_by_hand():
  """Two cells: inwards for ever, or out at once."""
  two = lambda slip, limit: mdp_model.of_survival_chain(
      survival.WalkParams(np.array([2]), np.array([limit]), np.array([slip]),
                           np.array([0.5]), np.array([0b01], np.uint32)), 3)
  value = lambda slip, limit, best: mdp_model.start_values(
      two(slip, limit), best)[0]
  assert value(0., 9, True) == 4.5
  np.testing.assert_allclose(value(0.25, 3, True), 0.5 * (1 + 0.75 + 0.75 ** 2))
  np.testing.assert_allclose(value(0.25, 3, False), 0.5 * (1 + 0.5 + 0.25))


def test_simulated_chains_agree_with_the_model():
  """Random and optimal policies, in 64 lifetimes."""
  environment = suite.load('survival_chain')
  params = optimal.draw_lifetimes(environment, 64, 5)
  mdps = mdp_model.of_survival_chain(params, 15)
  repeated = jax.tree_util.tree_map(lambda x: jnp.repeat(x, 256, axis=0),
                                    params)
  returns = np.asarray(optimal.episode_returns(
      environment, repeated, jax.random.PRNGKey(6))).reshape(64, 256)
  error = returns.std(axis=1, ddof=1) / 16.
  expected = mdp_model.start_values(mdps, False)
  assert (np.abs(returns.mean(axis=1) - expected) < 5. * error).all()
  best = mdp_model.start_values(mdps, True)
  assert (best > expected).all()
  assert (best <= params.reward * params.limit + 1e-4).all()


def test_constants_of_balance():
  environment = suite.load('balance')
  params = env_testing.run(environment, 'init_params')
  used = params.start > 0.
  size = used.sum(axis=1)
  env_testing.check_uniform(size, [2, 3, 4])
  assert (used[:, :2]).all() and (np.diff(used.astype(int)) <= 0).all()
  for constant in (params.growth, params.push, params.noise, params.normal):
    assert not constant[~used].any()
  excess = params.growth[:, 0] - 1.
  check_continuous(excess, 0.05 - 1e-6, 0.15 + 1e-6)
  env_testing.check_chance((params.push[:, 0] > 0).sum(), NUM, 0.5)
  check_continuous(np.abs(params.push[:, 0]) / excess, 1.5 - 1e-4, 3. + 1e-4)
  decay = 1. - params.growth[:, 1]
  check_continuous(decay, 0.02 - 1e-6, 0.2 + 1e-6)
  check_continuous(params.push[:, 1] / decay, -0.4 - 1e-4, 0.4 + 1e-4)
  check_continuous(params.noise[:, 0], 0., 0.05)
  np.testing.assert_allclose(params.noise[:, 1], params.noise[:, 0] * decay,
                             rtol=1e-4)
  np.testing.assert_allclose((params.normal ** 2).sum(axis=1), 1., rtol=1e-5)
  angle = np.arctan2(params.normal[:, 1], params.normal[:, 0])[size == 2]
  check_continuous(angle, -np.pi - 1e-6, np.pi + 1e-6)
  check_continuous(np.log(params.unit), np.log(0.3) - 1e-6, np.log(3.) + 1e-6)
  check_continuous(params.reward, 0.2, 1.2)


def balance_params():
  """x = H z with H = [[0.28, -0.96], [-0.96, -0.28]]; two of four modes."""
  pad = lambda *x: jnp.asarray((*x, *[0.] * (4 - len(x))), jnp.float32)
  return survival.BalanceParams(
      pad(1.1, 0.9), pad(0.2, -0.03), pad(0., 0.), pad(0.1, 0.1),
      pad(0.6, 0.8), jnp.asarray([0.5, 2., 1., 1.], jnp.float32),
      jnp.float32(0.7))


def test_balance_by_hand():
  states = ([[0.3, 0.2, 0., 0.]], [7])
  for action, force in ((1, 1.), (0, -1.)):
    new, timestep = env_testing.step_each(
        suite.load('balance'), balance_params(), states, [action])
    modes = [1.1 * 0.3 + 0.2 * force, 0.9 * 0.2 - 0.03 * force]
    np.testing.assert_allclose(new.modes[0], [*modes, 0., 0.], atol=1e-6)
    reflection = np.array([[0.28, -0.96], [-0.96, -0.28]])
    position = reflection @ modes
    np.testing.assert_allclose(
        timestep.observation[0], [position[0] / 0.5, position[1] / 2., 0., 0.],
        atol=1e-6)
    assert timestep.discount[0] == 1. and new.time[0] == 8
    assert timestep.reward[0] == np.float32(0.7)


def test_balance_is_a_linear_system():
  """In positions: x' = A x + b u, with A = H diag(growth) H."""
  reflection = np.array([[0.28, -0.96], [-0.96, -0.28]])
  matrix = reflection @ np.diag([1.1, 0.9]) @ reflection
  push = reflection @ [0.2, -0.03]
  start = np.array([[0.1, -0.2], [0.05, 0.3]])
  modes = np.pad(start @ reflection, ((0, 0), (0, 2)))
  _, timestep = env_testing.step_each(
      suite.load('balance'), balance_params(), (modes, [0, 0]), [1, 0])
  expected = start @ matrix.T + np.outer([1., -1.], push)
  np.testing.assert_allclose(timestep.observation[:, :2] * [0.5, 2.], expected,
                             atol=1e-6)


def test_balance_ends_out_of_bounds_and_at_the_limit():
  """Positions: (0.28 z_0, -0.96 z_0) where only mode 0 is not 0."""
  last = 1. / 0.96
  states = ([[(z - 0.2) / 1.1, 0.03 / 0.9, 0., 0.]
             for z in (last - 1e-3, last + 1e-3, 0.)], [0, 0, 199])
  new, timestep = env_testing.step_each(
      suite.load('balance'), balance_params(), states, [1, 1, 1])
  assert timestep.discount.tolist() == [1., 0., 0.]
  assert new.time.tolist() == [1, 0, 0]
  assert (timestep.reward == np.float32(0.7)).all()


def test_noise_and_starts_of_balance_are_uniform():
  environment = suite.load('balance')
  params = balance_params()._replace(noise=jnp.float32([0.02, 0.01, 0., 0.]))
  new, _ = env_testing.step_many(environment, params,
                                 (np.zeros(4, np.float32), 0), 1)
  check_continuous(new.modes[:, 0], 0.18 - 1e-6, 0.22 + 1e-6)
  check_continuous(new.modes[:, 1], -0.04 - 1e-6, -0.02 + 1e-6)
  assert abs(np.corrcoef(new.modes[:, :2].T)[0, 1]) < 6. / np.sqrt(NUM)
  # From here the noise decides on the end: the position -0.96 z_0 is 1.
  edge = np.array([(1. / 0.96 - 0.2) / 1.1, 0.03 / 0.9, 0., 0.], np.float32)
  new, timestep = env_testing.step_many(environment, params, (edge, 0), 1)
  ended = timestep.discount == 0.
  assert 0.3 < ended.mean() < 0.7
  midway, _ = env_testing.run(environment, 'reset_midway', params)
  env_testing.check_uniform(midway.time, range(200))
  for modes in (new.modes[ended], midway.modes,
                env_testing.run(environment, 'reset', params)[0].modes):
    check_continuous(modes[:, 0], -0.1 - 1e-6, 0.1 + 1e-6)
    check_continuous(modes[:, 1], -0.1 - 1e-6, 0.1 + 1e-6)
    assert not modes[:, 2:].any()


def test_pushing_against_mode_0_never_fails():
  """So the best return is the reward times the limit.

  Let b be the push and w <= 0.05 the noise of mode 0, with growth 1 + e and
  b = strength * e <= 3 * 0.15. If its magnitude z is at most b + w, then
  afterwards it is at most max(b, (1 + e) (b + w) - b) + w = b + w, since
  e b + (1 + e) w <= b. A stable mode of decay d stays within
  (0.4 d + 0.05 d) / d. The position has the norm of the modes.
  """
  ranges = suite.BEYOND_THE_PAPER['balance']
  largest_push = ranges.strengths[1] * ranges.excesses[1]
  for e in ranges.excesses:
    b = ranges.strengths[0] * e
    assert e * b + (1. + e) * ranges.noise <= b
  bound = np.linalg.norm([largest_push + ranges.noise]
                         + 3 * [ranges.gain + ranges.noise])
  assert ranges.start < ranges.gain and bound < 1.

  environment = suite.load('balance')
  params = optimal.draw_lifetimes(environment, 2048, 3)

  def step(carry, key):
    state, ends = carry
    action = (state.modes[:, 0] * params.push[:, 0] < 0.).astype(jnp.int32)
    state, timestep = jax.vmap(environment.step)(
        params, state, action, jax.random.split(key, 2048))
    return (state, ends + (timestep.discount == 0.)), None

  state, _ = jax.vmap(environment.reset)(
      params, jax.random.split(jax.random.PRNGKey(0), 2048))
  (state, ends), _ = jax.lax.scan(
      step, (state, jnp.zeros(2048, int)),
      jax.random.split(jax.random.PRNGKey(1), 400))
  assert (np.asarray(ends) == 2).all() and not state.time.any()


@pytest.mark.pinned
def test_returns_in_the_file():
  saved = optimal_returns.load()
  ranges = suite.BEYOND_THE_PAPER['balance']
  assert saved['balance']['optimal'] == 200. * np.mean(ranges.rewards)
  for name in ('survival_chain', 'balance'):
    other = optimal.compute(name, num_episodes=256, seed=9)
    for key in ('optimal', 'random'):
      error = np.hypot(other[f'{key}_standard_error'],
                       saved[name][f'{key}_standard_error'])
      assert abs(other[key] - saved[name][key]) <= 5. * error
