"""Survival tasks: each step is rewarded until a failure ends the episode.

These kinds are not in the paper. Its environments have sparse rewards; here
the return of an episode is its number of steps times a reward, which is drawn
for each lifetime. An episode also ends at a limit of steps.

- `SurvivalChain`: cells in a row. In each cell one action leads to the left and
  one to the right; which does what is drawn for each cell of a lifetime. By
  chance a step leads the other way. Leaving the row is the failure.
- `Balance`: a linear system with an unstable direction, and two actions that
  push it to either side. Leaving the cube of side 2 is the failure.
"""

import dataclasses
from typing import NamedTuple

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.envs import base
from lpg_distributed.envs import drawing
from lpg_distributed.envs import settings as settings_lib

NUM_ACTIONS = 2


class WalkParams(NamedTuple):
  """Constants of a lifetime."""
  length: chex.Array  # [] int32, number of cells
  limit: chex.Array  # [] int32, number of steps after which an episode ends
  slip: chex.Array  # [] float32, chance of a step to the other side
  reward: chex.Array  # [] float32, of each step
  directions: chex.Array  # [] uint32; bit i: the action that leads right


class WalkState(NamedTuple):
  """The state of an episode."""
  cell: chex.Array  # [] int32
  time: chex.Array  # [] int32, steps of this episode so far


@dataclasses.dataclass(frozen=True)
class SurvivalChain:
  """A walk on a row of cells; see `base.Environment`."""
  name: str
  settings: settings_lib.SurvivalChainSettings

  @property
  def max_episode_steps(self) -> int:
    return self.settings.limits[1]

  def observation_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(self.settings.lengths[1], name='cell')

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(NUM_ACTIONS, name='action')

  def action_mask(self, params: WalkParams) -> chex.Array:
    del params
    return jnp.ones((NUM_ACTIONS,), bool)

  def init_params(self, key: chex.PRNGKey) -> WalkParams:
    """Draws the constants of a lifetime, all independently."""
    keys = jax.random.split(key, 5)
    ranges = self.settings
    return WalkParams(
        drawing.integer(keys[0], ranges.lengths),
        drawing.integer(keys[1], ranges.limits),
        drawing.number(keys[2], ranges.slips),
        drawing.number(keys[3], ranges.rewards),
        jax.random.bits(keys[4], (), jnp.uint32))

  def _start(self, params: WalkParams, fraction: chex.Array) -> WalkState:
    """Starts in a cell drawn uniformly."""
    return WalkState(drawing.index(fraction, params.length),
                     jnp.zeros((), jnp.int32))

  def reset(self, params: WalkParams, key: chex.PRNGKey):
    """Starts an episode; returns its state and observation."""
    state = self._start(params, jax.random.uniform(key))
    return state, state.cell

  def reset_midway(self, params: WalkParams, key: chex.PRNGKey):
    """Like `reset`, but with a random time, uniform up to the limit."""
    start_key, time_key = jax.random.split(key)
    state, observation = self.reset(params, start_key)
    time = jax.random.randint(time_key, (), 0, params.limit, jnp.int32)
    return state._replace(time=time), observation

  def step(self, params: WalkParams, state: WalkState, action: chex.Array,
           key: chex.PRNGKey) -> tuple[WalkState, base.TimeStep]:
    """Takes a step; starts a new episode where one ended."""
    slip, start = drawing.fractions(jax.random.bits(key, (2,), jnp.uint32))
    right = (params.directions >> state.cell.astype(jnp.uint32)) & 1
    goes_right = (action == right.astype(jnp.int32)) ^ (slip < params.slip)
    cell, time = state.cell + jnp.where(goes_right, 1, -1), state.time + 1
    ended = (cell < 0) | (cell >= params.length) | (time >= params.limit)
    new_state = jax.tree_util.tree_map(
        lambda a, b: jnp.where(ended, a, b), self._start(params, start),
        WalkState(cell, time))
    return new_state, base.TimeStep(
        new_state.cell, params.reward,
        jnp.where(ended, 0., 1.).astype(jnp.float32))


class BalanceParams(NamedTuple):
  """Constants of a lifetime; D coordinates, some of them unused.

  With z the modes, x = H z the position and u = 1 or -1 the force,

    z' = growth z + push u + noise w,  w uniform in [-1, 1]^D

  H is a reflection. So x follows a linear system with the symmetric matrix
  H diag(growth) H. Mode 0 is unstable, the others are stable.
  """
  growth: chex.Array  # [D]
  push: chex.Array  # [D]
  noise: chex.Array  # [D]
  start: chex.Array  # [D], largest magnitude of a mode at the start
  normal: chex.Array  # [D], unit vector; H = 1 - 2 normal normal^T
  unit: chex.Array  # [D]; the position is observed in these units
  reward: chex.Array  # [], of each step


class BalanceState(NamedTuple):
  """The state of an episode."""
  modes: chex.Array  # [D]
  time: chex.Array  # [] int32, steps of this episode so far


@dataclasses.dataclass(frozen=True)
class Balance:
  """An unstable linear system; see `base.Environment`.

  A policy that pushes against mode 0 never fails: `tests/envs/test_survival.py`
  has the proof for the ranges of `BalanceSettings`.
  """
  name: str
  settings: settings_lib.BalanceSettings

  @property
  def max_episode_steps(self) -> int:
    return self.settings.max_episode_steps

  @property
  def size(self) -> int:
    return self.settings.dimensions[1]

  def observation_spec(self) -> specs.BoundedArray:
    largest = 1. / self.settings.units[0]
    return specs.BoundedArray((self.size,), np.float32, -largest, largest,
                              name='position')

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(NUM_ACTIONS, name='action')

  def action_mask(self, params: BalanceParams) -> chex.Array:
    del params
    return jnp.ones((NUM_ACTIONS,), bool)

  def init_params(self, key: chex.PRNGKey) -> BalanceParams:
    """Draws the system, the units and the reward of a lifetime."""
    ranges, shape = self.settings, (self.size,)
    keys = jax.random.split(key, 10)
    used = jnp.arange(self.size) < drawing.integer(keys[0], ranges.dimensions)
    unstable = jnp.arange(self.size) == 0
    excess = drawing.number(keys[1], ranges.excesses)
    decay = drawing.number(keys[2], ranges.decays, shape)
    growth = jnp.where(unstable, 1. + excess, 1. - decay)
    sign = jnp.where(jax.random.bernoulli(keys[3]), 1., -1.)
    strength = sign * drawing.number(keys[4], ranges.strengths)
    gain = drawing.number(keys[5], (-ranges.gain, ranges.gain), shape)
    push = jnp.where(unstable, strength * excess, gain * decay)
    noise = drawing.number(keys[6], (0., ranges.noise)) * jnp.where(
        unstable, 1., decay)
    normal = jax.random.normal(keys[7], shape) * used
    low, high = np.log(ranges.units)
    return BalanceParams(
        growth * used, push * used, noise * used,
        (ranges.start * used).astype(jnp.float32),
        normal / jnp.linalg.norm(normal),
        jnp.exp(drawing.number(keys[8], (low, high), shape)),
        drawing.number(keys[9], ranges.rewards))

  def _position(self, params: BalanceParams, modes: chex.Array) -> chex.Array:
    along = jnp.sum(params.normal * modes)
    return modes - 2. * along * params.normal

  def _observe(self, params: BalanceParams, state: BalanceState) -> chex.Array:
    return self._position(params, state.modes) / params.unit

  def _start(self, params: BalanceParams, words: chex.Array) -> BalanceState:
    """Starts with modes drawn uniformly; `words` [D] are 16 random bits."""
    return BalanceState(params.start * _signed(words),
                        jnp.zeros((), jnp.int32))

  def reset(self, params: BalanceParams, key: chex.PRNGKey):
    """Starts an episode; returns its state and observation."""
    words = jax.random.bits(key, (self.size,), jnp.uint32)
    state = self._start(params, words >> 16)
    return state, self._observe(params, state)

  def reset_midway(self, params: BalanceParams, key: chex.PRNGKey):
    """Like `reset`, but with a random time, uniform over the episode."""
    start_key, time_key = jax.random.split(key)
    state, observation = self.reset(params, start_key)
    time = jax.random.randint(time_key, (), 0, self.max_episode_steps,
                              jnp.int32)
    return state._replace(time=time), observation

  def step(self, params: BalanceParams, state: BalanceState,
           action: chex.Array, key: chex.PRNGKey
           ) -> tuple[BalanceState, base.TimeStep]:
    """Takes a step; starts a new episode where one ended."""
    words = jax.random.bits(key, (self.size,), jnp.uint32)
    force = jnp.where(action == 1, 1., -1.)
    modes = (params.growth * state.modes + params.push * force
             + params.noise * _signed(words & 0xffff))
    time = state.time + 1
    failed = jnp.any(jnp.abs(self._position(params, modes)) > 1.)
    ended = failed | (time >= self.max_episode_steps)
    # Other bits than those of the noise, which may have ended the episode.
    new_state = jax.tree_util.tree_map(
        lambda a, b: jnp.where(ended, a, b),
        self._start(params, words >> 16), BalanceState(modes, time))
    return new_state, base.TimeStep(
        self._observe(params, new_state), params.reward,
        jnp.where(ended, 0., 1.).astype(jnp.float32))


def _signed(words: chex.Array) -> chex.Array:
  """Converts 16 random bits to numbers in [-1, 1], with mean 0."""
  return (words.astype(jnp.float32) * 2. - 65535.) / 65535.
