"""The random parts of grid worlds against their exact probabilities."""

import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.envs import grid_world
from lpg_distributed.envs import suite
from tests.envs import env_testing

NUM = env_testing.NUM
RANDOM = tuple(name for name in env_testing.GRIDS if name.startswith('random'))
TABULAR = tuple(name for name in env_testing.GRIDS if name not in RANDOM)


def make(name, by_action=False, cells=None):
  """An environment and parameters with objects in its last cells."""
  num_objects = len(env_testing.objects(name))
  if cells is None:
    cells = env_testing.free_cells(name)[-num_objects:]
  return suite.load(name), grid_world.GridParams(
      jnp.asarray(cells, jnp.int32), jnp.asarray(by_action))


def state_of(params, cell, present, time=0):
  cells = np.asarray(params.object_cells)
  present = np.broadcast_to(np.asarray(present, bool), cells.shape)
  return cell, present, cells, time


@env_testing.EACH_GRID
def test_a_collection_ends_the_episode_with_its_probability(name):
  """Each type of object has its own probability; nothing else ends it."""
  environment, params = make(name)
  for i, (reward, termination, _) in enumerate(env_testing.objects(name)):
    state = state_of(params, params.object_cells[i], True)
    _, timestep = env_testing.step_many(environment, params, state,
                                        env_testing.STAY, seed=i)
    assert (timestep.reward == reward).all()
    env_testing.check_chance(np.sum(timestep.discount == 0), NUM, termination)
    assert np.isin(timestep.discount, (0, 1)).all()


@env_testing.EACH_GRID
def test_a_new_episode_follows_an_end(name):
  """All objects are present and time is 0, also if a collection ended it."""
  environment, params = make(name)
  chances = [kind[1] for kind in env_testing.objects(name)]
  present = np.arange(len(chances)) == np.argmax(chances)
  state = state_of(params, params.object_cells[np.argmax(chances)], present, 7)
  new, timestep = env_testing.step_many(environment, params, state,
                                        env_testing.STAY)
  ended = timestep.discount == 0
  assert ended.any() == (max(chances) > 0)
  assert new.present[ended].all() and not new.time[ended].any()
  assert (new.time[~ended] == 8).all()


@env_testing.EACH_GRID
def test_objects_respawn_independently_with_their_probability(name):
  """Checks each object alone, and all objects together."""
  environment, params = make(name)
  respawn = np.array([kind[2] for kind in env_testing.objects(name)])
  num_objects = len(respawn)
  cell = env_testing.free_cells(name)[0]
  counts, repeats = np.zeros(2 ** num_objects, int), 8
  for seed in range(repeats):
    new, timestep = env_testing.step_many(
        environment, params, state_of(params, cell, False), env_testing.STAY,
        seed=seed)
    assert timestep.discount.all() and not timestep.reward.any()
    counts += np.bincount(new.present @ 2 ** np.arange(num_objects),
                          minlength=len(counts))
  bits = (np.arange(len(counts))[:, None] >> np.arange(num_objects)) & 1
  returned = counts @ bits
  for i in range(num_objects):
    env_testing.check_chance(returned[i], NUM * repeats, respawn[i])
  for chance in set(respawn):  # Pooled, since some are rare.
    equal = respawn == chance
    env_testing.check_chance(returned[equal].sum(),
                             NUM * repeats * equal.sum(), chance)
  env_testing.check_distribution(
      counts, np.prod(np.where(bits, respawn, 1 - respawn), axis=1))


@env_testing.EACH_GRID
def test_present_objects_do_not_move(name):
  environment, params = make(name, by_action=True)
  state = state_of(params, env_testing.free_cells(name)[0], True)
  new, _ = env_testing.step_many(environment, params, state, env_testing.STAY)
  assert new.present.all() and (new.object_cells == params.object_cells).all()


@env_testing.EACH_GRID
def test_episodes_start_in_uniform_free_cells(name):
  """After `reset`, and after a step that ended an episode."""
  environment, params = make(name)
  num_cells = environment.num_cells
  free = env_testing.free_cells(name)
  reset, _ = env_testing.run(environment, 'reset', params, seed=1)
  late = state_of(params, free[0], True, environment.max_episode_steps - 1)
  again, timestep = env_testing.step_many(environment, params, late,
                                          env_testing.STAY)
  assert not timestep.discount.any()
  for state in (reset, again):
    assert state.present.all() and not state.time.any()
    if name in TABULAR:
      taken = np.asarray(params.object_cells).tolist()
      assert (state.object_cells == params.object_cells).all()
      env_testing.check_uniform(state.cell, env_testing.free_cells(name, taken))
      continue
    cells = np.concatenate([state.object_cells, state.cell[:, None]], axis=1)
    ordered = np.sort(cells, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all(), 'two objects in one cell'
    for i in range(cells.shape[1]):
      env_testing.check_uniform(cells[:, i], free)
      for j in range(i):
        env_testing.check_uniform_pairs(cells[:, j], cells[:, i], free,
                                        num_cells)


@env_testing.EACH_GRID
def test_a_lifetime_draws_uniform_cells_and_action_spaces(name):
  environment = suite.load(name)
  params = env_testing.run(environment, 'init_params')
  env_testing.check_chance(params.collects_by_action.sum(), NUM, 0.5)
  cells = params.object_cells
  ordered = np.sort(cells, axis=1)
  assert (ordered[:, 1:] > ordered[:, :-1]).all(), 'two objects in one cell'
  free = env_testing.free_cells(name)
  for i in range(cells.shape[1]):
    env_testing.check_uniform(cells[:, i], free)
    # Layouts do not depend on the action space.
    env_testing.check_uniform(cells[params.collects_by_action, i], free)
    for j in range(i):
      env_testing.check_uniform_pairs(cells[:, j], cells[:, i], free,
                                      environment.num_cells)


@pytest.mark.parametrize('by_action', [False, True])
def test_two_objects_reappear_in_different_free_cells(by_action):
  """Cells are free if neither agent nor object is there after the move.

  The first object is present in cell 0; the agent goes from 16 to 17.
  """
  name = 'random_small_sparse'
  environment, params = make(name, by_action, (0, 20, 30))
  new, _ = env_testing.step_many(
      environment, params, state_of(params, 16, [True, False, False]), 5)
  assert new.present.all() and (new.cell == 17).all()
  assert (new.object_cells[:, 0] == 0).all()
  free = env_testing.free_cells(name, (0, 17))
  assert len(free) == 33 and 16 in free
  env_testing.check_uniform_pairs(new.object_cells[:, 1],
                                  new.object_cells[:, 2], free, 35)


def test_objects_reappear_beside_an_agent_on_an_object():
  """With eighteen actions, agent and object share a cell; 34 are free."""
  name = 'random_small_sparse'
  environment, params = make(name, True, (16, 20, 30))
  new, _ = env_testing.step_many(
      environment, params, state_of(params, 16, [True, False, False]),
      env_testing.STAY)
  free = env_testing.free_cells(name, (16,))
  env_testing.check_uniform_pairs(new.object_cells[:, 1],
                                  new.object_cells[:, 2], free, 35)


def test_objects_reappear_in_cells_without_walls():
  """Counts runs of `random_small` in which just one object returned."""
  name = 'random_small'
  environment, params = make(name, True, (0, 20, 27, 34))
  cells = []
  for seed in range(4):
    new, _ = env_testing.step_many(
        environment, params, state_of(params, 16, [True, True, False, False]),
        env_testing.STAY, seed=seed)
    only = new.present[:, 2] & ~new.present[:, 3]
    env_testing.check_chance(only.sum(), NUM, 0.1 * 0.9)
    cells.append(new.object_cells[only, 2])
  free = env_testing.free_cells(name, (0, 20, 16))
  assert len(free) == 30
  env_testing.check_uniform(np.concatenate(cells), free)


def test_a_collected_object_reappears_in_any_free_cell():
  """In `random_very_dense`, it is absent for one state.

  The cell in which it was before is as likely as any other.
  """
  name = 'random_very_dense'
  environment, params = make(name, True, (50,))
  state, timestep = env_testing.step_many(
      environment, params, state_of(params, 49, True), 9 + 5)
  assert timestep.reward.all() and not state.present.any()
  new, _ = env_testing.run(environment, 'step', params, state,
                           np.full(NUM, env_testing.STAY, np.int32), seed=1)
  assert new.present.all()
  env_testing.check_uniform(new.object_cells[:, 0],
                            env_testing.free_cells(name, (49,)))


@pytest.mark.parametrize('name', [
    'tabular_sparse', 'random_small',
    pytest.param('tabular_longer_horizon', marks=pytest.mark.pinned)])
def test_reset_midway_draws_a_uniform_time(name):
  """Objects and the agent are placed as at the start of an episode."""
  environment, params = make(name)
  state, _ = env_testing.run(environment, 'reset_midway', params)
  env_testing.check_uniform(state.time,
                            range(env_testing.GRID_TABLES[name][3]))
  assert state.present.all()
  taken = (np.asarray(params.object_cells).tolist() if name in TABULAR else ())
  env_testing.check_uniform(state.cell, env_testing.free_cells(name, taken))
