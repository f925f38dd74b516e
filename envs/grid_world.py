"""Grid worlds with objects to collect, Appendices A.1 and A.2.

Where the paper is silent:
- a step moves or collects first; then objects that were absent when the step
  began may reappear. What was just collected is away for one state at least;
- nine actions: the object in the agent's cell after the move is collected,
  also after staying. Eighteen: moving collects nothing, collecting moves
  nowhere;
- an agent starts in, and objects appear in, cells without wall or object (an
  object not under the agent), each such cell as likely as another;
- a move into a wall or over the edge leaves the agent where it is.
"""

import dataclasses
from typing import NamedTuple

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from envs import base
from envs import settings as settings_lib

NUM_MOVES = 9  # eight neighbours and stay; action 4 stays
NUM_ACTIONS = 2 * NUM_MOVES

ObjectType = settings_lib.ObjectType
GridWorldSettings = settings_lib.GridWorldSettings


class GridParams(NamedTuple):
  """What is fixed for a lifetime."""
  object_cells: chex.Array  # [m] int32; of a random grid: not used
  collects_by_action: chex.Array  # [] bool: 18 actions, else 9


class GridState(NamedTuple):
  cell: chex.Array  # [] int32, the agent's: row * width + column
  present: chex.Array  # [m] bool
  object_cells: chex.Array  # [m] int32
  time: chex.Array  # [] int32, steps done in this episode


@dataclasses.dataclass(frozen=True)
class GridWorld:
  """One setting; see `base.Environment`."""
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
    if self.settings.tabular:
      return specs.DiscreteArray(self.num_cells * 2 ** self.num_objects,
                                 name='state_index')
    shape = (self.settings.height, self.settings.width,
             len(self.settings.objects) + 1)
    return specs.BoundedArray(shape, np.uint8, 0, 1, name='planes')

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(NUM_ACTIONS, name='action')

  def action_mask(self, params: GridParams) -> chex.Array:
    return jnp.logical_or(jnp.arange(NUM_ACTIONS) < NUM_MOVES,
                          params.collects_by_action)

  def open_cells(self) -> np.ndarray:
    """[F] int32, the cells without a wall."""
    rows = self.settings.walls or ('.' * self.settings.width,
                                   ) * self.settings.height
    return np.flatnonzero([c == '.' for c in ''.join(rows)]).astype(np.int32)

  def _per_object(self, field: str) -> np.ndarray:
    """[m], a number of each object's type."""
    return np.array([getattr(kind, field) for kind in self.settings.objects
                     for _ in range(kind.count)], np.float32)

  def init_params(self, key: chex.PRNGKey) -> GridParams:
    layout_key, action_key = jax.random.split(key)
    uniform = jax.random.uniform(layout_key, (self.num_objects,))
    cells, _ = self._place_all(uniform)
    return GridParams(cells, jax.random.bernoulli(action_key))

  def _pick(self, uniform: chex.Array, taken: chex.Array,
            counts: chex.Array) -> chex.Array:
    """A uniform choice among open cells that are not taken.

    Args:
      uniform: [] in [0, 1).
      taken: [n] cells, no two that count equal.
      counts: [n] bool, which of them count.
    """
    cells = self.open_cells()
    rank_of = np.full(self.num_cells, 0, np.int32)
    rank_of[cells] = np.arange(len(cells))
    ranks = jnp.where(counts, jnp.asarray(rank_of)[taken], len(cells))
    num_free = len(cells) - jnp.sum(counts)
    rank = jnp.minimum((uniform * num_free).astype(jnp.int32), num_free - 1)
    # The rank-th free cell is the first one with as many taken cells up to
    # it as it lies behind `rank`.
    behind = jnp.arange(taken.shape[0] + 1)
    taken_before = jnp.sum(ranks[None, :] <= rank + behind[:, None], axis=1)
    rank = rank + jnp.argmax(taken_before == behind)
    return jnp.asarray(cells)[rank].astype(jnp.int32)

  def _place_all(self, uniform: chex.Array):
    """All objects in cells of their own; [m] uniforms to [m] cells."""
    m = self.num_objects
    cells = jnp.zeros((m,), jnp.int32)
    for i in range(m):
      placed = jnp.arange(m) < i
      cells = cells.at[i].set(self._pick(uniform[i], cells, placed))
    return cells, jnp.ones((m,), bool)

  def _num_uniforms_to_start(self) -> int:
    return 1 if self.settings.tabular else 1 + self.num_objects

  def _start(self, params: GridParams, uniform: chex.Array) -> GridState:
    """The first state of an episode; all objects are there."""
    if self.settings.tabular:
      cells = params.object_cells
      present = jnp.ones((self.num_objects,), bool)
    else:
      cells, present = self._place_all(uniform[1:])
    return GridState(self._pick(uniform[0], cells, present), present, cells,
                     jnp.zeros((), jnp.int32))

  def _observe(self, state: GridState) -> chex.Array:
    if self.settings.tabular:
      bits = 2 ** np.arange(self.num_objects)
      bitmask = jnp.sum(jnp.where(state.present, jnp.asarray(bits), 0))
      return (state.cell + self.num_cells * bitmask).astype(jnp.int32)
    cells = jnp.arange(self.num_cells)
    here = (state.object_cells[:, None] == cells) & state.present[:, None]
    planes, first = [], 0
    for kind in self.settings.objects:
      planes.append(jnp.any(here[first:first + kind.count], axis=0))
      first += kind.count
    planes.append(state.cell == cells)
    shape = (self.settings.height, self.settings.width, len(planes))
    return jnp.stack(planes, axis=-1).reshape(shape).astype(jnp.uint8)

  def reset(self, params: GridParams, key: chex.PRNGKey):
    uniform = jax.random.uniform(key, (self._num_uniforms_to_start(),))
    state = self._start(params, uniform)
    return state, self._observe(state)

  def reset_midway(self, params: GridParams, key: chex.PRNGKey):
    """As `reset`, with a uniformly drawn number of steps already done."""
    start_key, time_key = jax.random.split(key)
    state, observation = self.reset(params, start_key)
    time = jax.random.randint(time_key, (), 0, self.max_episode_steps,
                              jnp.int32)
    return state._replace(time=time), observation

  def _neighbour(self, cell: chex.Array, direction: chex.Array):
    """The cell in a direction (0 to 8) and whether it is one without wall."""
    width, height = self.settings.width, self.settings.height
    row = cell // width + direction // 3 - 1
    column = cell % width + direction % 3 - 1
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    target = jnp.where(inside, row * width + column, cell)
    if self.settings.walls:
      is_open = np.zeros(self.num_cells, bool)
      is_open[self.open_cells()] = True
      inside = inside & jnp.asarray(is_open)[target]
    return target.astype(jnp.int32), inside

  def step(self, params: GridParams, state: GridState, action: chex.Array,
           key: chex.PRNGKey) -> tuple[GridState, base.TimeStep]:
    m = self.num_objects
    num_respawn = m if self.settings.tabular else 2 * m
    uniform = jax.random.uniform(
        key, (1 + num_respawn + self._num_uniforms_to_start(),))
    next_state, reward, discount = self._transition(
        params, state, action, uniform[:1 + num_respawn])
    first = self._start(params, uniform[1 + num_respawn:])
    new_state = jax.tree_util.tree_map(
        lambda a, b: jnp.where(discount == 0., a, b), first, next_state)
    return new_state, base.TimeStep(self._observe(new_state), reward, discount)

  def _transition(self, params, state, action, uniform):
    """One step without the next episode; returns state, reward, discount."""
    m = self.num_objects
    target, is_open = self._neighbour(state.cell, action % NUM_MOVES)
    moves = action < NUM_MOVES
    cell = jnp.where(moves & is_open, target, state.cell)
    # Nine actions collect where the agent has come to, eighteen where the
    # second nine aim at; -1 is nowhere.
    aim = jnp.where(moves, -1, jnp.where(is_open, target, -1))
    aim = jnp.where(params.collects_by_action, aim, cell)
    collected = state.present & (state.object_cells == aim)  # at most one
    total = lambda field: jnp.sum(
        jnp.where(collected, jnp.asarray(self._per_object(field)), 0.))
    reward = total('reward')
    time = state.time + 1
    ended = (uniform[0] < total('termination')) | (
        time >= self.max_episode_steps)

    returns = ~state.present & (
        uniform[1:1 + m] < jnp.asarray(self._per_object('respawn')))
    present = state.present & ~collected
    cells = state.object_cells
    if self.settings.tabular:
      present = present | returns
    else:
      cells, present = self._reappear(cells, present, returns, cell,
                                      uniform[1 + m:])
    discount = jnp.where(ended, 0., 1.).astype(jnp.float32)
    return (GridState(cell, present, cells, time),
            reward.astype(jnp.float32), discount)

  def _reappear(self, cells, present, returns, agent_cell, uniform):
    """Puts objects that return into free cells, one after the other."""
    for i in range(self.num_objects):
      taken = jnp.concatenate([cells, agent_cell[None]])
      counts = jnp.concatenate([present, jnp.ones((1,), bool)])
      # The agent may stand where an object that counts already is.
      counts = counts.at[-1].set(~jnp.any(present & (cells == agent_cell)))
      cell = self._pick(uniform[i], taken, counts)
      cells = cells.at[i].set(jnp.where(returns[i], cell, cells[i]))
      present = present.at[i].set(present[i] | returns[i])
    return cells, present
