"""Small random Markov decision processes with rewards at each step.

These kinds are not in the paper. A lifetime draws its states, actions, rewards
and transitions, so nothing is common to all of them. For each pair of a state
and an action it draws:

- two next states, perhaps the same, and the chance of the first
- the reward, offset + scale x with x from a standard normal distribution, where
  offset and scale are the lifetime's
- whether it ends the episode

An episode starts in a state drawn uniformly, and also ends at the lifetime's
limit of steps. The agent observes the state's number, or with `num_features` a
vector that is drawn for each state of a lifetime.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.envs import base
from lpg_distributed.envs import drawing
from lpg_distributed.envs import settings as settings_lib

_MOST = 3.  # standard deviations; features beyond are clipped


class MdpParams(NamedTuple):
  """Constants of a lifetime; S states and A actions, some unused."""
  num_states: chex.Array  # [] int32
  num_actions: chex.Array  # [] int32
  limit: chex.Array  # [] int32, number of steps after which an episode ends
  successors: chex.Array  # [S, A, 2] int32
  first_chance: chex.Array  # [S, A] float32, of the first successor
  reward: chex.Array  # [S, A] float32
  ends: chex.Array  # [S, A] bool
  features: Any  # [S, F] float32; () if state numbers are observed


class MdpState(NamedTuple):
  """The state of an episode."""
  index: chex.Array  # [] int32
  time: chex.Array  # [] int32, steps of this episode so far


@dataclasses.dataclass(frozen=True)
class RandomMdp:
  """Random decision processes; see `base.Environment`."""
  name: str
  settings: settings_lib.RandomMdpSettings

  @property
  def max_episode_steps(self) -> int:
    return self.settings.limits[1]

  def observation_spec(self) -> base.ObservationSpec:
    """Spec of a state's number, or of its features."""
    if self.settings.num_features:
      return specs.BoundedArray((self.settings.num_features,), np.float32,
                                -_MOST, _MOST, name='features')
    return specs.DiscreteArray(self.settings.num_states[1], name='state_index')

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(self.settings.num_actions[1], name='action')

  def action_mask(self, params: MdpParams) -> chex.Array:
    return jnp.arange(self.settings.num_actions[1]) < params.num_actions

  def init_params(self, key: chex.PRNGKey) -> MdpParams:
    """Draws the decision process of a lifetime."""
    ranges = self.settings
    keys = jax.random.split(key, 11)
    size = ranges.num_states[1]
    shape = (size, ranges.num_actions[1])
    num_states = drawing.integer(keys[0], ranges.num_states)
    offset = drawing.number(keys[1], ranges.offsets)
    scale = drawing.number(keys[2], ranges.scales)
    end_share = drawing.number(keys[3], ranges.end_shares)
    return MdpParams(
        num_states, drawing.integer(keys[4], ranges.num_actions),
        drawing.integer(keys[5], ranges.limits),
        jax.random.randint(keys[6], (*shape, 2), 0, num_states, jnp.int32),
        jax.random.uniform(keys[7], shape),
        offset + scale * jax.random.normal(keys[8], shape),
        jax.random.bernoulli(keys[9], end_share, shape),
        jnp.clip(jax.random.normal(keys[10], (size, ranges.num_features)),
                 -_MOST, _MOST) if ranges.num_features else ())

  def _observe(self, params: MdpParams, state: MdpState) -> chex.Array:
    if self.settings.num_features:
      return params.features[state.index]
    return state.index

  def _start(self, params: MdpParams, fraction: chex.Array) -> MdpState:
    return MdpState(drawing.index(fraction, params.num_states),
                    jnp.zeros((), jnp.int32))

  def reset(self, params: MdpParams, key: chex.PRNGKey):
    """Starts an episode; returns its state and observation."""
    state = self._start(params, jax.random.uniform(key))
    return state, self._observe(params, state)

  def reset_midway(self, params: MdpParams, key: chex.PRNGKey):
    """Like `reset`, but with a random time, uniform up to the limit."""
    start_key, time_key = jax.random.split(key)
    state, observation = self.reset(params, start_key)
    time = jax.random.randint(time_key, (), 0, params.limit, jnp.int32)
    return state._replace(time=time), observation

  def step(self, params: MdpParams, state: MdpState, action: chex.Array,
           key: chex.PRNGKey) -> tuple[MdpState, base.TimeStep]:
    """Takes a step; starts a new episode where one ended."""
    chance, start = drawing.fractions(jax.random.bits(key, (2,), jnp.uint32))
    here = (state.index, action)
    first, second = params.successors[here]
    index = jnp.where(chance < params.first_chance[here], first, second)
    time = state.time + 1
    ended = params.ends[here] | (time >= params.limit)
    new_state = jax.tree_util.tree_map(
        lambda a, b: jnp.where(ended, a, b), self._start(params, start),
        MdpState(index, time))
    return new_state, base.TimeStep(
        self._observe(params, new_state), params.reward[here],
        jnp.where(ended, 0., 1.).astype(jnp.float32))
