"""A family of grid worlds, of which each lifetime draws one.

These kinds are not in the paper. They have the steps of `grid_world`, and each
lifetime draws independently:

- height and width, and which cells have a wall
- the number of objects, their cells, and for each its reward and its chances to
  end the episode and to return; the first object has a positive reward
- the limit of steps
- whether 9 or 18 actions exist, as in the paper's grid worlds

Objects keep their cells during a lifetime. The agent observes the number of its
state; or, with `planes`, one plane for each object, one for walls and one for
itself.
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
from lpg_distributed.envs import grid_world
from lpg_distributed.envs import settings as settings_lib


class FamilyParams(NamedTuple):
  """Constants of a lifetime; N cells and m objects, some unused."""
  # [N] int32, all cells: those with walls, those of objects, free ones, and
  # those outside of the grid.
  order: chex.Array
  num_walls: chex.Array  # [] int32
  num_objects: chex.Array  # [] int32
  num_inside: chex.Array  # [] int32, height * width
  is_open: chex.Array  # [N] bool: inside, and no wall
  object_cells: chex.Array  # [m] int32
  reward: chex.Array  # [m] float32
  termination: chex.Array  # [m] float32
  respawn: chex.Array  # [m] float32
  limit: chex.Array  # [] int32, number of steps after which an episode ends
  collects_by_action: chex.Array  # [] bool; True: 18 actions, False: 9


@dataclasses.dataclass(frozen=True)
class RandomGrids(grid_world.GridWorld):
  """Grid worlds of a family; see `base.Environment`."""
  settings: settings_lib.RandomGridsSettings

  @property
  def max_episode_steps(self) -> int:
    return self.settings.limits[1]

  @property
  def num_objects(self) -> int:
    return self.settings.num_objects[1]

  def observation_spec(self) -> base.ObservationSpec:
    """Spec of a state's number, or of planes [H, W, m + 2]."""
    if not self.settings.planes:
      return specs.DiscreteArray(self.num_cells * 2 ** self.num_objects,
                                 name='state_index')
    shape = (self.settings.height, self.settings.width, self.num_objects + 2)
    return specs.BoundedArray(shape, np.uint8, 0, 1, name='planes')

  def init_params(self, key: chex.PRNGKey) -> FamilyParams:
    """Draws the grid world of a lifetime."""
    ranges = self.settings
    keys = jax.random.split(key, 13)
    height = drawing.integer(keys[0], ranges.sizes)
    width = drawing.integer(keys[1], ranges.sizes)
    num_inside = height * width
    row, column = np.divmod(np.arange(self.num_cells), ranges.width)
    inside = (row < height) & (column < width)
    order = jnp.argsort(jnp.where(
        inside, jax.random.uniform(keys[2], inside.shape), 2.))
    share = drawing.number(keys[3], (0., ranges.most_walls))
    num_walls = (share * num_inside).astype(jnp.int32)
    num_objects = drawing.integer(keys[4], ranges.num_objects)
    rank = jnp.argsort(order)
    shape = (self.num_objects,)
    index = np.arange(self.num_objects)
    low, high = ranges.rewards
    reward = drawing.number(keys[5], (low, high), shape)
    first = drawing.number(keys[6], (ranges.least_first_reward, high))
    chance = lambda bounds, key, share_key, share: jnp.where(
        jax.random.bernoulli(share_key, share, shape),
        jnp.exp(drawing.number(key, tuple(np.log(bounds)), shape)), 0.)
    exists = index < num_objects
    return FamilyParams(
        order.astype(jnp.int32), num_walls, num_objects, num_inside,
        inside & (rank >= num_walls),
        jax.lax.dynamic_slice(order, (num_walls,), shape).astype(jnp.int32),
        jnp.where(index == 0, first, reward),
        chance(ranges.terminations, keys[7], keys[8], ranges.ending_share),
        exists * chance(ranges.respawns, keys[9], keys[10],
                        ranges.returning_share),
        drawing.integer(keys[11], ranges.limits),
        jax.random.bernoulli(keys[12]))

  def _start(self, params: FamilyParams,
             fractions: chex.Array) -> grid_world.GridState:
    """Starts in a free cell drawn uniformly, with all objects present."""
    taken = params.num_walls + params.num_objects
    num_free = params.num_inside - taken
    place = jnp.minimum((fractions[-1] * num_free).astype(jnp.int32),
                        num_free - 1)
    return grid_world.GridState(
        params.order[taken + place],
        jnp.arange(self.num_objects) < params.num_objects,
        params.object_cells, jnp.zeros((), jnp.int32))

  def _has_walls(self) -> bool:
    return True

  def _is_open(self, params: FamilyParams, cell: chex.Array) -> chex.Array:
    return params.is_open[cell]

  def _objects(self, params: FamilyParams, field: str) -> chex.Array:
    return getattr(params, field)

  def _limit(self, params: FamilyParams) -> chex.Array:
    return params.limit

  def _returns(self, params: FamilyParams, absent: chex.Array,
               words: chex.Array) -> chex.Array:
    return absent & (drawing.fractions(words[1:]) < params.respawn)

  def _observe(self, params: FamilyParams,
               state: grid_world.GridState) -> chex.Array:
    if not self.settings.planes:
      return super()._observe(params, state)
    cell, plane = np.ogrid[:self.num_cells, :self.num_objects + 2]
    walls, agent = self.num_objects, self.num_objects + 1
    # One elementwise operation for each plane, which XLA fuses.
    planes = functools.reduce(jnp.logical_or, [
        (plane == walls) & ~params.is_open[:, None],
        (plane == agent) & (cell == state.cell),
        *((plane == i) & (cell == state.object_cells[i]) & state.present[i]
          for i in range(self.num_objects))])
    return planes.reshape(self.observation_spec().shape).astype(jnp.uint8)
