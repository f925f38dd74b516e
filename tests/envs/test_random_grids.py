"""The family of grid worlds: draws, steps by hand, and exact returns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lpg_distributed.envs import grid_model
from lpg_distributed.envs import optimal
from lpg_distributed.envs import optimal_returns
from lpg_distributed.envs import random_grids
from lpg_distributed.envs import suite
from tests.envs import env_testing

NUM = env_testing.NUM
NAMES = ('random_grids', 'random_grids_planes')
CELLS = 49
STAY = env_testing.STAY


def check_uniform_real(values, low, high):
  values = np.ravel(values)
  assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
  assert stats.kstest(values, 'uniform', (low, high - low)).pvalue > 1e-6


@pytest.fixture(scope='module', name='drawn')
def _drawn():
  """Parameters of NUM lifetimes."""
  return env_testing.run(suite.load('random_grids'), 'init_params')


def test_sizes_walls_and_objects_are_uniform(drawn):
  sizes = [a * b for a, b in itertools.product(range(3, 8), range(3, 8))]
  env_testing.check_distribution(
      np.bincount(drawn.num_inside, minlength=50),
      np.bincount(sizes, minlength=50) / 25.)
  for inside, most in ((9, 2), (49, 12)):
    walls = drawn.num_walls[drawn.num_inside == inside]
    assert walls.min() == 0 and walls.max() == most
    # A share of 0 to 0.25, rounded down; the last number is cut off.
    chances = np.diff(np.minimum(np.arange(most + 2) / inside / 0.25, 1.))
    env_testing.check_distribution(np.bincount(walls), chances)
  env_testing.check_uniform(drawn.num_objects, range(1, 5))
  env_testing.check_uniform(drawn.limit, range(20, 301))
  env_testing.check_chance(drawn.collects_by_action.sum(), NUM, 0.5)


def test_cells_are_inside_and_different(drawn):
  grids = np.sort(drawn.order[:64], axis=1)
  assert (grids == np.arange(CELLS)).all()
  for i in range(64):
    order, walls = drawn.order[i], drawn.num_walls[i]
    inside = order[:drawn.num_inside[i]]
    row, column = inside // 7, inside % 7
    assert (row.max() + 1) * (column.max() + 1) == drawn.num_inside[i]
    assert sorted(np.flatnonzero(drawn.is_open[i])) == sorted(inside[walls:])
    np.testing.assert_array_equal(drawn.object_cells[i],
                                  order[walls:walls + 4])
    assert drawn.num_inside[i] - walls - drawn.num_objects[i] >= 3


def test_cells_are_drawn_uniformly(drawn):
  """In grids of 7 x 7, of the pairs of the first object and of a wall."""
  whole = (drawn.num_inside == CELLS) & (drawn.num_walls > 0)
  env_testing.check_uniform_pairs(
      drawn.object_cells[whole, 0], drawn.order[whole, 0], range(CELLS), CELLS)


def test_rewards_and_chances_of_objects(drawn):
  check_uniform_real(drawn.reward[:, 0], 0.2, 1.)
  check_uniform_real(drawn.reward[:, 1:], -1., 1.)
  ending = drawn.termination > 0.
  env_testing.check_chance(ending.sum(), ending.size, 0.5)
  check_uniform_real(np.log(drawn.termination[ending]), np.log(0.1), 0.)
  exists = np.arange(4) < drawn.num_objects[:, None]
  assert not drawn.respawn[~exists].any()
  returning = drawn.respawn[exists] > 0.
  env_testing.check_chance(returning.sum(), returning.size, 0.75)
  check_uniform_real(np.log(drawn.respawn[exists][returning]), np.log(0.005),
                     0.)


def three_by_three(by_action=False, respawn=0., termination=0., limit=99):
  """Cells 0 to 2, 7 to 9 and 14 to 16; a wall in the middle, 8.

  Object 0 of reward 0.5 is in cell 0, object 1 of reward -0.25 in cell 16.
  Cells 1, 2, 7, 9, 14 and 15 are free.
  """
  inside = [8, 0, 16, 1, 2, 7, 9, 14, 15]
  order = inside + [cell for cell in range(CELLS) if cell not in inside]
  is_open = np.isin(np.arange(CELLS), inside[1:])
  return random_grids.FamilyParams(*map(jnp.asarray, (
      np.array(order, np.int32), np.int32(1), np.int32(2), np.int32(9),
      is_open, np.array([0, 16, 1, 2], np.int32),
      np.array([0.5, -0.25, 1., 1.], np.float32),
      np.array([termination, 0., 1., 1.], np.float32),
      np.array([respawn, 0., 0., 0.], np.float32), np.int32(limit),
      np.bool_(by_action))))


def step(params, states, actions, name='random_grids'):
  """`states` are rows of (cell, present[0:2], time)."""
  cells, present, times = zip(*states)
  present = np.pad(np.array(present, bool), ((0, 0), (0, 2)))
  layouts = np.tile(np.asarray(params.object_cells), (len(cells), 1))
  return env_testing.step_each(suite.load(name), params,
                               (cells, present, layouts, times), actions)


def test_moves_stop_at_walls_and_edges():
  """By direction, from the free cells 1 and 9; None: it stays."""
  neighbours = {1: {0: None, 1: None, 2: None, 3: 0, 4: 1, 5: 2, 6: 7, 7: None,
                    8: 9},
                9: {0: 1, 1: 2, 2: None, 3: None, 4: 9, 5: None, 6: 15, 7: 16,
                    8: None}}
  for cell, by_direction in neighbours.items():
    new, _ = step(three_by_three(True), [(cell, (True, True), 0)] * 9,
                  list(range(9)))
    assert new.cell.tolist() == [cell if to is None else to
                                 for to in by_direction.values()]


def test_collecting_by_hand():
  both = (True, True)
  new, timestep = step(three_by_three(), [(1, both, 0), (9, both, 0)], [3, 7])
  assert timestep.reward.tolist() == [0.5, -0.25]
  assert timestep.discount.tolist() == [1., 1.]
  assert new.present.tolist() == [[False, True, False, False],
                                  [True, False, False, False]]
  # With eighteen actions, moving does not collect; collecting does not move.
  new, timestep = step(three_by_three(True), [(1, both, 0)] * 3, [3, 12, 17])
  assert timestep.reward.tolist() == [0., 0.5, 0.]
  assert new.cell.tolist() == [0, 1, 1]
  mask = suite.load('random_grids').action_mask
  assert mask(three_by_three()).sum() == 9 and mask(three_by_three(1)).all()


def test_chances_of_an_end_and_of_a_return():
  environment = suite.load('random_grids')
  params = three_by_three(respawn=0.3, termination=0.4)
  cells = np.asarray(params.object_cells)
  present = lambda *x: np.array([*x, False, False])
  _, timestep = env_testing.step_many(
      environment, params, (1, present(True, True), cells, 0), 3)
  env_testing.check_chance((timestep.discount == 0.).sum(), NUM, 0.4)
  new, _ = env_testing.step_many(
      environment, params, (1, present(False, False), cells, 0), STAY)
  env_testing.check_chance(new.present[:, 0].sum(), NUM, 0.3)
  assert not new.present[:, 1:].any()


def test_episodes_end_at_the_limit_and_start_in_free_cells():
  environment, params = suite.load('random_grids'), three_by_three(limit=20)
  state = (1, np.array([True, False, False, False]),
           np.asarray(params.object_cells))
  _, timestep = env_testing.step_many(environment, params, (*state, 18), STAY)
  assert timestep.discount.all()
  new, timestep = env_testing.step_many(environment, params, (*state, 19), STAY)
  assert not timestep.discount.any() and not new.time.any()
  reset, _ = env_testing.run(environment, 'reset', params)
  for first in (new, reset):
    env_testing.check_uniform(first.cell, [1, 2, 7, 9, 14, 15])
    assert first.present[:, :2].all() and not first.present[:, 2:].any()
  midway, _ = env_testing.run(environment, 'reset_midway', params)
  env_testing.check_uniform(midway.time, range(20))


def test_observations_by_hand():
  states, actions = [(1, (True, False), 0), (9, (False, True), 0)], [STAY] * 2
  _, timestep = step(three_by_three(), states, actions)
  assert timestep.observation.tolist() == [1 + CELLS * 0b01, 9 + CELLS * 0b10]
  _, timestep = step(three_by_three(), states, actions, 'random_grids_planes')
  for planes, cell, objects in zip(timestep.observation, (1, 9),
                                   ([[0], []], [[], [16]])):
    ones = [np.flatnonzero(planes[..., i]).tolist() for i in range(6)]
    walls = [x for x in range(CELLS) if x not in (0, 1, 2, 7, 9, 14, 15, 16)]
    assert ones == [*objects, [], [], walls, [cell]]


def test_simulated_returns_agree_with_the_exact_models():
  """Of the random policy, in 32 lifetimes."""
  environment = suite.load('random_grids')
  params = optimal.draw_lifetimes(environment, 32, 5)
  repeated = jax.tree_util.tree_map(lambda x: jnp.repeat(x, 256, axis=0),
                                    params)
  returns = np.asarray(optimal.episode_returns(
      environment, repeated, jax.random.PRNGKey(6))).reshape(32, 256)
  error = returns.std(axis=1, ddof=1) / 16.
  params = jax.device_get(params)
  for i in range(32):
    one = jax.tree_util.tree_map(lambda x, i=i: x[i], params)
    model = optimal.lifetime_model(environment.settings, one)
    expected = grid_model.start_values(model, int(one.limit), False)[0]
    assert abs(returns[i].mean() - expected) < 5. * error[i] + 1e-6


@pytest.mark.pinned
def test_returns_in_the_file():
  saved = optimal_returns.load()
  other = optimal.compute('random_grids', num_layouts=8, seed=9)
  for key in ('optimal', 'random'):
    error = np.hypot(other[f'{key}_standard_error'],
                     saved['random_grids'][f'{key}_standard_error'])
    for name in NAMES:
      assert abs(other[key] - saved[name][key]) <= 5. * error
