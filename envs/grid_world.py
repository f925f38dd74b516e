"""Grid worlds with objects to collect, Appendices A.1 and A.2.

Where the paper gives no details, the following holds:

- A step first moves or collects. Then objects that were absent when the step
  began may reappear. So a collected object is absent for at least one state.
- With nine actions, the object in the agent's cell after the move is collected,
  also if the agent stays. With eighteen, moving does not collect, and
  collecting does not move.
- The agent's start cell is drawn uniformly from cells without a wall or an
  object. An object's cell is drawn uniformly from cells without a wall, another
  object or the agent.
- A move into a wall or over the edge leaves the agent in its cell.
"""

import dataclasses
import functools
from typing import NamedTuple

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.envs import base
from lpg_distributed.envs import drawing
from lpg_distributed.envs import free_cells
from lpg_distributed.envs import settings as settings_lib

NUM_MOVES = 9  # to eight neighbours, and staying, which is action 4
NUM_ACTIONS = 2 * NUM_MOVES

ObjectType = settings_lib.ObjectType
GridWorldSettings = settings_lib.GridWorldSettings


class GridParams(NamedTuple):
  """What is fixed during a lifetime."""
  object_cells: chex.Array  # [m] int32; not used by random grids
  collects_by_action: chex.Array  # [] bool; True: 18 actions, False: 9


class GridState(NamedTuple):
  """The state of an episode."""
  cell: chex.Array  # [] int32, the agent's cell: row * width + column
  present: chex.Array  # [m] bool
  object_cells: chex.Array  # [m] int32
  time: chex.Array  # [] int32, steps of this episode so far


@dataclasses.dataclass(frozen=True)
class GridWorld:
  """A grid world of one setting; see `base.Environment`."""
  name: str
  settings: GridWorldSettings

  @property
  def max_episode_steps(self) -> int:
    return self.settings.max_episode_steps

  @property
  def num_cells(self) -> int:
    return self.settings.height * self.settings.width

  @property
  def num_objects(self) -> int:
    return sum(kind.count for kind in self.settings.objects)

  def observation_spec(self) -> base.ObservationSpec:
    """Spec of a state index (tabular), or of planes [H, W, kinds + 1]."""
    if self.settings.tabular:
      return specs.DiscreteArray(self.num_cells * 2 ** self.num_objects,
                                 name='state_index')
    shape = (self.settings.height, self.settings.width,
             len(self.settings.objects) + 1)
    return specs.BoundedArray(shape, np.uint8, 0, 1, name='planes')

  def action_spec(self) -> specs.DiscreteArray:
    """Spec of 18 actions, of which `action_mask` allows 9 or all."""
    return specs.DiscreteArray(NUM_ACTIONS, name='action')

  def action_mask(self, params: GridParams) -> chex.Array:
    """Returns which actions are allowed, [18] bool."""
    return jnp.logical_or(jnp.arange(NUM_ACTIONS) < NUM_MOVES,
                          params.collects_by_action)

  def open_cells(self) -> np.ndarray:
    """Returns the cells without a wall, [F] int32."""
    rows = self.settings.walls or ('.' * self.settings.width,
                                   ) * self.settings.height
    return np.flatnonzero([c == '.' for c in ''.join(rows)]).astype(np.int32)

  def _per_object(self, field: str) -> np.ndarray:
    """Returns the field of each object's type, [m]."""
    return np.array([getattr(kind, field) for kind in self.settings.objects
                     for _ in range(kind.count)], np.float32)

  def init_params(self, key: chex.PRNGKey) -> GridParams:
    """Draws the layout and the number of actions of a lifetime."""
    layout_key, action_key = jax.random.split(key)
    words = jax.random.bits(layout_key, (self.num_objects,), jnp.uint32)
    cells, _ = self._place_all(drawing.fractions(words))
    return GridParams(cells, jax.random.bernoulli(action_key))

  def _cell(self, rank: chex.Array) -> chex.Array:
    """Returns the open cell with index `rank`."""
    cells = self.open_cells()
    if len(cells) == self.num_cells:
      return rank
    return jnp.asarray(cells)[rank]

  def _rank(self, cell: chex.Array) -> chex.Array:
    """Returns the index of an open cell among the open cells."""
    cells = self.open_cells()
    if len(cells) == self.num_cells:
      return cell
    rank_of = np.zeros(self.num_cells, np.int32)
    rank_of[cells] = np.arange(len(cells))
    return jnp.asarray(rank_of)[cell]

  def _place_all(self, fractions: chex.Array):
    """Places all objects in different open cells.

    Args:
      fractions: [m] in [0, 1), a uniform random number per object.

    Returns:
      The cells [m], and the remaining open cells.
    """
    free = free_cells.FreeCells(len(self.open_cells()))
    ranks = []
    for fraction in fractions:
      ranks.append(free.pick(fraction))
      free.remove(ranks[-1], jnp.bool_(True))
    return self._cell(jnp.stack(ranks)), free

  def _num_words_to_start(self) -> int:
    return 1 if self.settings.tabular else self.num_objects + 1

  def _start(self, params: GridParams, fractions: chex.Array) -> GridState:
    """Returns the first state of an episode, with all objects present."""
    if self.settings.tabular:
      cells = params.object_cells
      free = free_cells.FreeCells(len(self.open_cells()))
      for i in range(self.num_objects):
        free.remove(self._rank(cells[i]), jnp.bool_(True))
    else:
      cells, free = self._place_all(fractions[:-1])
    return GridState(self._cell(free.pick(fractions[-1])),
                     jnp.ones((self.num_objects,), bool), cells,
                     jnp.zeros((), jnp.int32))

  def _observe(self, params: GridParams, state: GridState) -> chex.Array:
    del params
    if self.settings.tabular:
      bits = 2 ** np.arange(self.num_objects)
      bitmask = jnp.sum(jnp.where(state.present, jnp.asarray(bits), 0))
      return (state.cell + self.num_cells * bitmask).astype(jnp.int32)
    # Indices of the ones in the flat observation; -1 for absent objects.
    num_planes = len(self.settings.objects) + 1
    kinds = [k for k, kind in enumerate(self.settings.objects)
             for _ in range(kind.count)]
    ones = [jnp.where(state.present[i], state.object_cells[i] * num_planes + k,
                      -1) for i, k in enumerate(kinds)]
    ones.append(state.cell * num_planes + num_planes - 1)
    shape = (self.settings.height, self.settings.width, num_planes)
    index = np.arange(np.prod(shape), dtype=np.int32)
    planes = functools.reduce(jnp.logical_or, [
        index == one for one in ones])
    return planes.reshape(shape).astype(jnp.uint8)

  def reset(self, params: GridParams, key: chex.PRNGKey):
    """Starts an episode; returns its state and observation."""
    words = jax.random.bits(key, (self._num_words_to_start(),), jnp.uint32)
    state = self._start(params, drawing.fractions(words))
    return state, self._observe(params, state)

  def reset_midway(self, params: GridParams, key: chex.PRNGKey):
    """Like `reset`, but with a random time, uniform over the episode."""
    start_key, time_key = jax.random.split(key)
    state, observation = self.reset(params, start_key)
    time = jax.random.randint(time_key, (), 0, self._limit(params),
                              jnp.int32)
    return state._replace(time=time), observation

  def _has_walls(self) -> bool:
    return bool(self.settings.walls)

  def _is_open(self, params: GridParams, cell: chex.Array) -> chex.Array:
    """Returns whether a cell has no wall."""
    del params
    is_open = np.zeros(self.num_cells, bool)
    is_open[self.open_cells()] = True
    return jnp.asarray(is_open)[cell]

  def _objects(self, params: GridParams, field: str) -> chex.Array:
    """Returns a field of `ObjectType` for each object, [m] float32."""
    del params
    return jnp.asarray(self._per_object(field))

  def _limit(self, params: GridParams) -> chex.Numeric:
    """Returns the number of steps after which an episode ends."""
    del params
    return self.max_episode_steps

  def _neighbour(self, params: GridParams, cell: chex.Array,
                 direction: chex.Array):
    """Returns the cell in a direction (0 to 8), and whether it is open."""
    width, height = self.settings.width, self.settings.height
    row = cell // width + direction // 3 - 1
    column = cell % width + direction % 3 - 1
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    target = jnp.where(inside, row * width + column, cell)
    if self._has_walls():
      inside = inside & self._is_open(params, target)
    return target.astype(jnp.int32), inside

  def step(self, params: GridParams, state: GridState, action: chex.Array,
           key: chex.PRNGKey) -> tuple[GridState, base.TimeStep]:
    """Takes a step; starts a new episode where one ended."""
    num_words = 1 + max(self.num_objects, self._num_words_to_start())
    words = jax.random.bits(key, (num_words,), jnp.uint32)
    next_state, reward, discount = self._transition(
        params, state, action, words[:1 + self.num_objects])
    # The transition uses the same words. That is harmless: if the episode ends,
    # its result is replaced by this first state.
    first = self._start(
        params, drawing.fractions(words[1:1 + self._num_words_to_start()]))
    new_state = jax.tree_util.tree_map(
        lambda a, b: jnp.where(discount == 0., a, b), first, next_state)
    return new_state, base.TimeStep(self._observe(params, new_state), reward,
                                    discount)

  def _transition(self, params, state, action, words):
    """Computes a step without a reset; returns state, reward, discount."""
    target, is_open = self._neighbour(params, state.cell, action % NUM_MOVES)
    moves = action < NUM_MOVES
    cell = jnp.where(moves & is_open, target, state.cell)
    # The cell that is collected from; -1 for none. With nine actions it is the
    # agent's new cell; with eighteen the second nine actions select it.
    aim = jnp.where(moves, -1, jnp.where(is_open, target, -1))
    aim = jnp.where(params.collects_by_action, aim, cell)
    collected = state.present & (state.object_cells == aim)  # at most one
    total = lambda field: jnp.sum(
        jnp.where(collected, self._objects(params, field), 0.))
    reward = total('reward')
    time = state.time + 1
    ended = (drawing.fractions(words[0]) < total('termination')) | (
        time >= self._limit(params))
    returns = self._returns(params, ~state.present, words)
    present = state.present & ~collected
    cells = state.object_cells
    if self.settings.tabular:
      present = present | returns
    else:
      fractions = words[1:].astype(jnp.float32) / np.maximum(
          self._returning_words(), 1.).astype(np.float32)
      cells, present = self._reappear(cells, present, returns, cell, fractions)
    discount = jnp.where(ended, 0., 1.).astype(jnp.float32)
    return (GridState(cell, present, cells, time),
            reward.astype(jnp.float32), discount)

  def _returning_words(self) -> np.ndarray:
    """Returns how many of the 2^32 words make each object return, [m].

    The same word, as a fraction of this bound, also selects its cell.
    """
    return self._per_object('respawn').astype(np.float64) * 2. ** 32

  def _returns(self, params: GridParams, absent: chex.Array,
               words: chex.Array) -> chex.Array:
    """Returns which absent objects return, [m] bool; `words` are 1 + m."""
    del params
    chances = self._returning_words()
    last_words = np.maximum(np.round(chances) - 1, 0).astype(np.uint32)
    return absent & (chances > 0.) & (words[1:] <= jnp.asarray(last_words))

  def _reappear(self, cells, present, returns, agent_cell, fractions):
    """Puts returning objects into free cells, one after the other."""
    free = free_cells.FreeCells(len(self.open_cells()))
    free.remove(self._rank(agent_cell), jnp.bool_(True))
    ranks = self._rank(cells)
    for i in range(self.num_objects):
      # An object may be in the agent's cell, which is already removed.
      free.remove(ranks[i], present[i] & (cells[i] != agent_cell))
    new_ranks = []
    for i in range(self.num_objects):
      new_ranks.append(free.pick(fractions[i]))
      free.remove(new_ranks[i], returns[i])
    return (jnp.where(returns, self._cell(jnp.stack(new_ranks)), cells),
            present | returns)
