"""Moves, collection, limits and observations of grid worlds, state by state.

Expected results are enumerated from the tables, walls and moves of
`env_testing`.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.envs import grid_world
from lpg_distributed.envs import suite
from tests.envs import env_testing

# Object cells at edges, in corners and by walls, where errors are likely.
CELLS = {
    'tabular_dense': (10, 11, 60, 114),
    'tabular_longer_horizon': (3, 13, 21, 33, 0, 62, 41),
    'random_small': (8, 24, 6, 28),
}
WALK = tuple(CELLS)


def make_params(name, by_action, cells=None):
  num_objects = len(env_testing.objects(name))
  cells = CELLS.get(name, range(num_objects)) if cells is None else cells
  return grid_world.GridParams(jnp.asarray(cells, jnp.int32),
                               jnp.asarray(by_action))


def step(name, params, agents, actions, present, times=0, seed=0):
  """Steps states that share their object cells."""
  num, num_objects = len(actions), len(env_testing.objects(name))
  states = (agents, np.broadcast_to(present, (num, num_objects)),
            np.broadcast_to(params.object_cells, (num, num_objects)),
            np.broadcast_to(times, (num,)))
  return env_testing.step_each(suite.load(name), params, states, actions, seed)


def all_pairs(name, num_actions):
  """Every open cell with every action."""
  cells = env_testing.free_cells(name)
  return (np.repeat(cells, num_actions),
          np.tile(np.arange(num_actions), len(cells)))


@pytest.mark.parametrize('name', WALK)
@pytest.mark.parametrize('by_action', [False, True])
def test_every_move_from_every_cell(name, by_action):
  """Without objects."""
  agents, actions = all_pairs(name, 18 if by_action else 9)
  state, timestep = step(name, make_params(name, by_action), agents, actions,
                         False)
  for agent, action, cell in zip(agents, actions, state.cell):
    target = (env_testing.target(name, agent, action) if action < 9 else None)
    assert cell == (agent if target is None else target), (agent, action)
  assert not timestep.reward.any() and timestep.discount.all()


def test_moves_by_hand():
  """In the 7 x 9 world with walls; cell = 9 * row + column."""
  expected = {
      (0, 0): 0, (0, 4): 0, (0, 5): 1, (0, 7): 9, (0, 8): 10,  # a corner
      (3, 5): 3, (3, 7): 12, (3, 8): 13,  # west of a wall
      (8, 5): 8, (9, 3): 9, (8, 8): 8, (9, 0): 9,  # no wrapping around
      (13, 1): 13, (13, 7): 13, (13, 0): 3, (13, 2): 5,  # in the gap
      (62, 8): 62, (62, 7): 62, (62, 1): 53, (62, 0): 52}
  agents, actions = np.transpose(list(expected))
  state, _ = step('tabular_longer_horizon',
                  make_params('tabular_longer_horizon', False), agents,
                  actions, False)
  assert state.cell.tolist() == list(expected.values())


@pytest.mark.parametrize('name', WALK)
@pytest.mark.parametrize('by_action', [False, True])
def test_collection_by_every_action_from_every_cell(name, by_action):
  """All objects are present."""
  agents, actions = all_pairs(name, 18 if by_action else 9)
  objects = env_testing.objects(name)
  params = make_params(name, by_action)
  state, timestep = step(name, params, agents, actions, True)
  num_collected = 0
  for i, (agent, action) in enumerate(zip(agents, actions)):
    aim = env_testing.target(name, agent, action % 9)
    if by_action:
      aim = aim if action >= 9 else None
    elif aim is None:
      aim = agent
    hit = [k for k, cell in enumerate(CELLS[name]) if cell == aim]
    expected = objects[hit[0]][0] if hit else 0
    assert timestep.reward[i] == expected, (agent, action)
    if not hit:
      assert timestep.discount[i] == 1
    if timestep.discount[i]:
      present = [k not in hit for k in range(len(objects))]
      assert state.present[i].tolist() == present, (agent, action)
    num_collected += len(hit)
  # An object is reached from each open neighbour and from its own cell; nine
  # actions collect it also when the agent stands there and cannot move away.
  reached = sum(env_testing.target(name, cell, d) is not None
                for cell in CELLS[name] for d in range(9))
  blocked = sum(env_testing.target(name, cell, d) is None
                for cell in CELLS[name] for d in range(9))
  assert num_collected == reached + (0 if by_action else blocked)


def test_collection_by_hand():
  """Agent in cell 12 of 11 x 11, one object beside it, north-east."""
  params = make_params('tabular_dense', True, (2, 40, 80, 100))
  state, timestep = step('tabular_dense', params, [12, 12, 12, 2],
                         [2, 11, 12, 13], True)
  np.testing.assert_array_equal(state.cell, [2, 12, 12, 2])
  np.testing.assert_array_equal(timestep.reward, [0, 1, 0, 1])
  # 121 * bitmask + cell.
  np.testing.assert_array_equal(
      timestep.observation,
      [121 * 15 + 2, 121 * 14 + 12, 121 * 15 + 12, 121 * 14 + 2])


@pytest.mark.parametrize('by_action', [False, True])
def test_absent_objects_give_nothing(by_action):
  params = make_params('tabular_dense', by_action)
  action = env_testing.STAY + (9 if by_action else 0)
  _, timestep = step('tabular_dense', params, CELLS['tabular_dense'],
                     [action] * 4, False)
  assert not timestep.reward.any() and timestep.discount.all()


@pytest.mark.parametrize('by_action', [False, True])
def test_a_collected_object_is_absent_for_one_state(by_action):
  """Even if it respawns with probability 1."""
  name, cell = 'random_very_dense', 50
  params = make_params(name, by_action, (cell,))
  action = env_testing.STAY + (9 if by_action else 0)
  state, timestep = step(name, params, [cell], [action], True)
  assert timestep.reward[0] == 1 and not state.present[0, 0]
  assert not timestep.observation[0, :, :, 0].any()
  state, timestep = step(name, params, [cell], [action], False)
  assert timestep.reward[0] == 0 and state.present[0, 0]
  assert timestep.observation[0, :, :, 0].sum() == 1


def test_tabular_objects_return_under_the_agent():
  """Cells are fixed: an agent that stays collects the object again."""
  name, cell = 'tabular_longer_horizon', CELLS['tabular_longer_horizon'][2]
  present = np.arange(7) != 2
  state, timestep = step(name, make_params(name, False), [cell],
                         [env_testing.STAY], present)
  assert state.present.all() and timestep.reward[0] == 0
  _, timestep = step(name, make_params(name, False), state.cell,
                     [env_testing.STAY], True)
  assert timestep.reward[0] == -1


@env_testing.EACH_GRID
def test_the_step_limit_ends_an_episode(name):
  """With the last step of the limit, and not before."""
  limit = env_testing.GRID_TABLES[name][3]
  free = env_testing.free_cells(name)
  cells = free[1:1 + len(env_testing.objects(name))]
  times = [0, 1, limit // 2, limit - 2, limit - 1]
  state, timestep = step(name, make_params(name, True, cells),
                         [free[0]] * 5, [env_testing.STAY] * 5, True, times)
  np.testing.assert_array_equal(timestep.discount, [1, 1, 1, 1, 0])
  np.testing.assert_array_equal(state.time,
                                [1, 2, limit // 2 + 1, limit - 1, 0])
  assert state.present[-1].all() and not timestep.reward.any()


def test_the_last_step_still_gives_its_reward():
  name = 'tabular_dense'
  params = make_params(name, False)
  _, timestep = step(name, params, [CELLS[name][0]], [env_testing.STAY], True,
                     [499])
  assert timestep.reward[0] == 1 and timestep.discount[0] == 0


def test_state_index():
  """position + P x bitmask of present objects, bit i for object i."""
  name = 'tabular_dense'
  state, timestep = step(name, make_params(name, True), [7] * 40_000,
                         [env_testing.STAY] * 40_000, False)
  seen = dict(zip(map(tuple, state.present.astype(int).tolist()),
                  timestep.observation.tolist()))
  assert len(set(timestep.observation.tolist())) == len(seen) == 16
  assert seen[0, 0, 0, 0] == 7
  assert seen[1, 0, 0, 0] == 7 + 121
  assert seen[0, 1, 0, 0] == 7 + 242
  assert seen[1, 0, 1, 0] == 7 + 605
  assert seen[0, 0, 0, 1] == 7 + 968
  assert seen[1, 1, 1, 1] == 7 + 1815


def test_planes():
  """One per type of object, then the agent's; absent objects are not shown."""
  params = make_params('random_small', True, (0, 9, 20, 34))
  cells = np.array([[3, 9, 20, 34], [3, 9, 20, 34]])
  present = np.array([[True, True, False, True], [True, False, True, True]])
  # Absent objects may return: only runs in which none did are compared.
  states = ([15, 9], present, cells, [0, 0])
  repeated = [np.resize(x, (400,) + np.shape(x)[1:]) for x in states]
  state, timestep = env_testing.step_each(
      suite.load('random_small'), params, repeated, [env_testing.STAY] * 400)
  expected = np.zeros((2, 5, 7, 3), np.uint8)
  expected[0, 0, 3, 0] = expected[0, 1, 2, 0] = expected[0, 4, 6, 1] = 1
  expected[0, 2, 1, 2] = 1
  expected[1, 0, 3, 0] = expected[1, 2, 6, 1] = expected[1, 4, 6, 1] = 1
  expected[1, 1, 2, 2] = 1
  unchanged = (state.present == repeated[1]).all(axis=-1)
  assert unchanged[::2].sum() > 100 and unchanged[1::2].sum() > 100
  for i in np.flatnonzero(unchanged):
    np.testing.assert_array_equal(timestep.observation[i], expected[i % 2])


@pytest.mark.parametrize('name', ['random_dense', pytest.param(
    'random_very_dense', marks=pytest.mark.pinned)])
def test_planes_show_the_state(name):
  """At a start, each plane has as many ones as objects of its type."""
  state, observation = env_testing.run(suite.load(name), 'reset',
                                       make_params(name, False))
  counts = [kind[0] for kind in env_testing.GRID_TABLES[name][2]]
  np.testing.assert_array_equal(observation.sum(axis=(1, 2)),
                                [counts + [1]] * env_testing.NUM)
  flat = observation.reshape(env_testing.NUM, 121, -1)
  np.testing.assert_array_equal(flat[..., -1].argmax(axis=-1), state.cell)
  first = 0
  for plane, count in enumerate(counts):
    for i in range(first, first + count):
      seen = flat[np.arange(env_testing.NUM), state.object_cells[:, i], plane]
      assert seen.all()
    first += count


@pytest.mark.parametrize('name', env_testing.GRIDS)
def test_action_mask(name):
  environment = suite.load(name)
  for by_action, num in ((False, 9), (True, 18)):
    np.testing.assert_array_equal(
        environment.action_mask(make_params(name, by_action)),
        np.arange(18) < num)
