"""Exact models against numbers by hand; simulations against the models."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.envs import grid_model
from lpg_distributed.envs import grid_world
from lpg_distributed.envs import optimal
from lpg_distributed.envs import optimal_returns
from lpg_distributed.envs import suite
from tests.envs import env_testing

SPACES = pytest.mark.parametrize('by_action', [False, True])


def two_cells(respawn=0., termination=0., reward=1.):
  """One row of two cells; the only object is in the right one."""
  return grid_world.GridWorldSettings(
      1, 2, (grid_world.ObjectType(1, reward, termination, respawn),), 99, True)


def value(settings, cells, by_action, steps, is_optimal):
  model = grid_model.LayoutModel(settings, np.array([cells]), by_action)
  return grid_model.start_values(model, steps, is_optimal)[0]


@SPACES
@pytest.mark.parametrize('respawn', [0., 0.3, 1.])
@pytest.mark.parametrize('termination', [0., 0.25])
def test_best_return_by_hand(by_action, respawn, termination):
  """Collect, wait at least one step, collect: it returns with chance q."""
  settings = two_cells(respawn, termination)
  q, on = respawn, 1. - termination
  for steps, expected in ((1, 1.), (2, 1.), (3, 1. + on * q),
                          (4, 1. + on * (q + (1. - q) * q))):
    np.testing.assert_allclose(value(settings, [1], by_action, steps, True),
                               expected)


def test_random_return_by_hand():
  """One of nine moves, or of eighteen actions, collects from the left cell."""
  settings = two_cells()
  np.testing.assert_allclose(value(settings, [1], False, 1, False), 1 / 9)
  np.testing.assert_allclose(value(settings, [1], False, 2, False),
                             1 - (8 / 9) ** 2)
  # With eighteen, a move may first lead to the object; there too one collects.
  np.testing.assert_allclose(value(settings, [1], True, 1, False), 1 / 18)
  np.testing.assert_allclose(value(settings, [1], True, 2, False),
                             1 - (17 / 18) ** 2)
  # What ends the episode is collected once at most.
  np.testing.assert_allclose(
      value(two_cells(1., 1.), [1], False, 50, False), 1 - (8 / 9) ** 50)


@SPACES
def test_negative_objects_are_collected_only_if_it_pays(by_action):
  """Four cells in a row: the agent, an object of -1, then two of +1."""
  kinds = (grid_world.ObjectType(2, 1., 0., 0.),
           grid_world.ObjectType(1, -1., 0., 0.))
  settings = grid_world.GridWorldSettings(1, 4, kinds, 99, True)
  # Nine actions collect it on the way, -1 + 2; eighteen need not.
  expected = {False: [0., 0., 1.], True: [0., 1., 1.]}[by_action]
  for steps, best in zip((1, 2, 3), expected):
    np.testing.assert_allclose(
        value(settings, [2, 3, 1], by_action, steps, True), best)
  assert value(settings, [2, 3, 1], by_action, 9, True) == (
      2. if by_action else 1.)


@SPACES
def test_roving_by_hand(by_action):
  """Two cells: the object returns in the cell without the agent."""
  settings = grid_world.GridWorldSettings(
      1, 2, (grid_world.ObjectType(1, 1., 0., 1.),), 99, False)
  model = grid_model.RovingModel(settings, by_action)
  assert [grid_model.start_values(model, steps, True).item()
          for steps in (1, 2, 3, 4, 5)] == [1., 1., 2., 2., 3.]
  chance = 1 / 18 if by_action else 1 / 9
  np.testing.assert_allclose(grid_model.start_values(model, 1, False), chance)
  np.testing.assert_allclose(grid_model.start_values(model, 2, False),
                             chance + (1 - chance) * chance)


def test_models_have_only_the_masks_that_can_be_reached():
  """An object of respawn probability 1 is absent for one state at most."""
  for name, num in (('tabular_dense', 16), ('tabular_sparse', 1),
                    ('tabular_long_horizon', 4 * 3),
                    ('tabular_longer_horizon', 4 * 6)):
    settings = suite.SETTINGS[name]
    layout = np.array([env_testing.free_cells(name)[
        :len(env_testing.objects(name))]])
    model = grid_model.LayoutModel(settings, layout, False)
    assert len(model.masks) == num


def test_all_layouts_are_enumerated_once():
  layouts = optimal.all_layouts(suite.SETTINGS['random_small_sparse'])
  assert layouts.shape == (35 * 34 * 33 // 2, 3)
  assert len(np.unique(layouts, axis=0)) == len(layouts)
  assert (layouts[:, 1] < layouts[:, 2]).all()
  assert not (layouts[:, :1] == layouts[:, 1:]).any()


def test_drawn_layouts_are_uniform():
  settings = suite.SETTINGS['tabular_longer_horizon']
  layouts = optimal.draw_layouts(settings, 20_000, np.random.default_rng(0))
  free = env_testing.free_cells('tabular_longer_horizon')
  env_testing.check_uniform_pairs(layouts[:, 0], layouts[:, 6], free, 63)


def policy_backup(model, values, policy, gamma=1.):
  """V one step before `values`; `policy` is [A] + the shape of `values`."""
  return sum(chance * action_value for chance, action_value in
             zip(policy, model.action_values(values, gamma)))


def layout_values(settings, object_cells, by_action, gamma, policy=None):
  """Discounted values of one layout, [S], without step limit.

  `policy` is [S, A], None: the optimal one. States that cannot be reached, and
  those with the agent in a wall, have the value NaN.
  """
  model = grid_model.LayoutModel(settings, np.asarray(object_cells)[None],
                                 by_action)
  num_cells = settings.height * settings.width
  index = model.masks[:, None] * num_cells + model.cells  # [N, F]
  if policy is None:
    backup = lambda v: np.max(list(model.action_values(v, gamma)), axis=0)
  else:
    chances = np.moveaxis(policy[index], -1, 0)[:18 if by_action else 9]
    backup = lambda v: policy_backup(model, v, chances[..., None], gamma)
  values, change = model.zeros(), np.inf
  while change * gamma > 1e-6 * (1. - gamma):
    new_values = backup(values)
    change = np.max(np.abs(new_values - values))
    values = new_values
  result = np.full(num_cells * 2 ** len(object_cells), np.nan)
  result[index] = values[..., 0]
  return result


@SPACES
def test_discounted_values_of_a_sparse_layout(by_action):
  """Values are powers of the distance; the object of -1 is in no path."""
  settings = suite.SETTINGS['tabular_sparse']
  values = layout_values(settings, [0, 168], by_action, 0.9)
  assert values.shape == (676,)
  row, column = np.divmod(np.arange(168), 13)
  # The move onto the cell collects; from the cell itself it is one step too.
  steps = np.maximum(np.maximum(row, column), 1)
  np.testing.assert_allclose(values[3 * 169:3 * 169 + 168], 0.9 ** (steps - 1),
                             atol=1e-5)
  # Either object ends the episode, so every state has both.
  assert np.isnan(values[:169]).all()


def test_discounted_values_of_a_policy_by_hand():
  """The policy stays for ever on the object's cell, or beside it."""
  respawn, termination, discount = 0.2, 0.1, 0.9
  settings = two_cells(respawn, termination)
  policy = np.zeros((4, 18))
  policy[:, env_testing.STAY] = 1.
  # V1 = 1 + g (1 - e) V0 and V0 = g (q V1 + (1 - q) V0).
  ratio = discount * respawn / (1. - discount * (1. - respawn))
  there = 1. / (1. - discount * (1. - termination) * ratio)
  np.testing.assert_allclose(
      layout_values(settings, [1], False, discount, policy),
      [0., ratio * there, 0., there], atol=1e-5)


@SPACES
def test_values_of_the_greedy_policy_are_optimal(by_action):
  """Walls have no value, and a uniform policy has lower values."""
  name, discount = 'random_small', 0.8
  settings = suite.SETTINGS[name]
  cells = np.array([1, 15, 7, 20])
  best = layout_values(settings, cells, by_action, discount)
  model = grid_model.LayoutModel(settings, cells[None], by_action)
  index = model.masks[:, None] * 35 + model.cells
  q = np.stack(list(model.action_values(best[index][..., None], discount)))
  policy = np.zeros((16 * 35, 18))
  policy[index, q[..., 0].argmax(axis=0)] = 1.
  np.testing.assert_allclose(
      layout_values(settings, cells, by_action, discount, policy),
      best, atol=1e-5)
  wall = np.isin(np.arange(16 * 35) % 35, (9, 25))
  np.testing.assert_array_equal(np.isnan(best), wall)
  uniform = layout_values(settings, cells, by_action, discount,
                                     np.full((16 * 35, 18), 1 / 18)
                                     * (1 if by_action else 2))
  assert (uniform[~wall] < best[~wall]).all()


def simulate(environment, params, policy, num, seed=0):
  """[num] returns of whole episodes under a [T or 1, S, A] policy."""
  cumulative = jnp.asarray(np.cumsum(policy, axis=-1), jnp.float32)

  def step(carry, x):
    time, key = x
    state, observation, alive, total = carry
    action_key, key = jax.random.split(key)
    chances = cumulative[jnp.minimum(time, len(policy) - 1), observation]
    uniform = jax.random.uniform(action_key, (num, 1)) * chances[:, -1:]
    action = jnp.sum(uniform >= chances, axis=-1).astype(jnp.int32)
    state, timestep = jax.vmap(environment.step, (None, 0, 0, 0))(
        params, state, action, jax.random.split(key, num))
    total += alive * timestep.reward
    alive *= timestep.discount
    return (state, timestep.observation, alive, total), None

  @jax.jit
  def run(key):
    key, reset_key = jax.random.split(key)
    state, observation = jax.vmap(environment.reset, (None, 0))(
        params, jax.random.split(reset_key, num))
    limit = environment.max_episode_steps
    carry, _ = jax.lax.scan(
        step, (state, observation, jnp.ones(num), jnp.zeros(num)),
        (jnp.arange(limit), jax.random.split(key, limit)))
    return carry[2:]

  alive, total = run(jax.random.PRNGKey(seed))
  assert not alive.any()
  return np.asarray(total, float)


def check_mean(returns, expected):
  error = returns.std(ddof=1) / np.sqrt(len(returns))
  assert abs(returns.mean() - expected) < 5. * error, (
      f'{returns.mean()} +- {error}, expected {expected}')


def table(model, environment, policies):
  """[T, S, A] of a model's [T, A, N, F]."""
  index = model.masks[:, None] * environment.num_cells + model.cells
  num_states = environment.observation_spec().num_values
  result = np.zeros((len(policies), num_states, policies.shape[1]), np.float32)
  result[:, index] = np.moveaxis(policies, 1, -1)
  return result


@pytest.mark.pinned
@pytest.mark.parametrize('name, by_action, num', [
    ('tabular_dense', False, 4096), ('tabular_longer_horizon', True, 2048)])
def test_simulated_returns_of_a_stochastic_policy(name, by_action, num):
  """Every action has another probability in every state."""
  environment = suite.load(name)
  rng = np.random.default_rng(0)
  cells = optimal.draw_layouts(environment.settings, 1, rng)
  model = grid_model.LayoutModel(environment.settings, cells, by_action)
  num_actions = 18 if by_action else 9
  chances = rng.gamma(0.5, size=(num_actions,) + model.zeros().shape)
  chances /= chances.sum(axis=0)
  values = model.zeros()
  for _ in range(environment.max_episode_steps):
    values = policy_backup(model, values, chances)
  params = grid_world.GridParams(jnp.asarray(cells[0], jnp.int32),
                                 jnp.asarray(by_action))
  returns = simulate(environment, params,
                     table(model, environment, chances[None, ..., 0]), num)
  check_mean(returns, model.start_value(values)[0])


@pytest.mark.pinned
@pytest.mark.parametrize('name, by_action, num', [
    ('tabular_dense', True, 1024), ('tabular_sparse', False, 1024)])
def test_simulated_returns_of_the_optimal_policy(name, by_action, num):
  """The optimal policy depends on the time that is left."""
  environment = suite.load(name)
  cells = optimal.draw_layouts(environment.settings, 1,
                               np.random.default_rng(1))
  model = grid_model.LayoutModel(environment.settings, cells, by_action)
  values, policies = model.zeros(), []
  for _ in range(environment.max_episode_steps):
    q = np.stack(list(model.action_values(values)))[..., 0]
    policies.append(q.argmax(axis=0) == np.arange(len(q))[:, None, None])
    values = q.max(axis=0)[..., None]
  params = grid_world.GridParams(jnp.asarray(cells[0], jnp.int32),
                                 jnp.asarray(by_action))
  returns = simulate(environment, params,
                     table(model, environment, np.array(policies[::-1])), num)
  expected = model.start_value(values)[0]
  if name == 'tabular_sparse':
    assert expected == 1. and (returns == 1.).all()
  else:
    assert expected > 30.
    check_mean(returns, expected)


@pytest.mark.parametrize('name, num', [
    ('random_small_sparse', 8192),
    pytest.param('random_very_dense', 512, marks=pytest.mark.pinned)])
@SPACES
def test_simulated_returns_of_the_random_policy(name, num, by_action):
  """Expected returns are exact means over all starts, per action space."""
  expected = optimal_returns.load()[name]['by_num_actions'][
      '18' if by_action else '9']['random']
  check_mean(optimal.simulate(suite.load(name), num, 3 + by_action, by_action),
             expected)


@pytest.mark.pinned
def test_the_file_has_the_computed_returns():
  for name in ('tabular_sparse', 'random_very_dense', 'chain_long_noisy'):
    saved, computed = optimal_returns.load()[name], optimal.compute(name)
    assert saved.keys() == computed.keys()
    for key in ('optimal', 'random'):
      np.testing.assert_allclose(saved[key], computed[key], atol=2e-4)


@pytest.mark.pinned
def test_the_file_agrees_with_other_layouts():
  """Up to standard errors, since both are means over few layouts."""
  for name, key in itertools.product(
      ['tabular_dense', 'tabular_long_horizon'], ['optimal', 'random']):
    saved = optimal_returns.load()[name]
    settings = suite.SETTINGS[name]
    layouts = optimal.draw_layouts(settings, 8, np.random.default_rng(7))
    for by_action, num_actions in ((False, '9'), (True, '18')):
      model = grid_model.LayoutModel(settings, layouts, by_action)
      values = grid_model.start_values(model, settings.max_episode_steps,
                                       key == 'optimal')
      error = np.hypot(values.std(ddof=1) / np.sqrt(8),
                       2 * saved[f'{key}_standard_error'])
      assert abs(values.mean() - saved['by_num_actions'][num_actions][key]) < (
          5. * error)


def test_optima_are_within_simple_bounds():
  """Bounds on how often an object can return, or be reached."""
  optima = optimal_returns.optima()
  assert optima['tabular_sparse'] == optima['random_small_sparse'] == 1.
  assert all(optima[name] == 1. for name in env_testing.CHAINS)
  # Two objects that return a hundred steps after they were collected; four
  # that take two hundred; one that takes two steps and is then elsewhere.
  assert 16 < optima['tabular_long_horizon'] < 2 + 2 * 1000 / 100
  assert 30 < optima['tabular_long_dense'] < 4 + 4 * 2000 / 200
  assert 250 < optima['random_very_dense'] < 1000
