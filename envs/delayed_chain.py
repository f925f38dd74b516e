"""Delayed chains (Appendix A.3): the first action determines the last reward.

An episode has `length` actions. The right first action is drawn per episode and
can be observed. The last reward is +1 if the first action was right, else -1.
"""

import dataclasses
from typing import NamedTuple

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.envs import base
from lpg_distributed.envs import settings as settings_lib

NUM_ACTIONS = 2
NUM_NOISE_BITS = 20

DelayedChainSettings = settings_lib.DelayedChainSettings


class ChainParams(NamedTuple):
  """What is fixed during a lifetime."""
  length: chex.Array  # [] int32, number of actions in an episode


class ChainState(NamedTuple):
  """The state of an episode."""
  time: chex.Array  # [] int32, number of actions in this episode so far
  right_action: chex.Array  # [] int32, 0 or 1
  correct: chex.Array  # [] int32, 1 if the first action was right


def _bit(word: chex.Array, index: int) -> chex.Array:
  return ((word >> index) & 1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class DelayedChain:
  """A chain of one setting; see `base.Environment`."""
  name: str
  settings: DelayedChainSettings

  @property
  def max_episode_steps(self) -> int:
    return self.settings.max_length

  def observation_spec(self) -> base.ObservationSpec:
    """Spec of a state index, or of bits with noise."""
    if self.settings.distractor:
      return specs.BoundedArray((2 + NUM_NOISE_BITS,), np.uint8, 0, 1,
                                name='bits')
    return specs.DiscreteArray(4 * self.settings.max_length - 2,
                               name='state_index')

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(NUM_ACTIONS, name='action')

  def action_mask(self, params: ChainParams) -> chex.Array:
    del params
    return jnp.ones((NUM_ACTIONS,), bool)

  def init_params(self, key: chex.PRNGKey) -> ChainParams:
    """Draws the length of a lifetime's episodes."""
    return ChainParams(jax.random.randint(
        key, (), self.settings.min_length, self.settings.max_length + 1,
        jnp.int32))

  def _observe(self, state: ChainState, word: chex.Array) -> chex.Array:
    """Returns the state's index, or its bits followed by 20 noise bits."""
    if self.settings.distractor:
      noise = (word >> jnp.arange(NUM_NOISE_BITS, dtype=jnp.uint32)) & 1
      relevant = jnp.stack([state.right_action == 0, state.correct == 1])
      return jnp.concatenate([relevant.astype(jnp.uint8),
                              noise.astype(jnp.uint8)])
    later = 4 * state.time - 2 + 2 * state.right_action + state.correct
    return jnp.where(state.time == 0, state.right_action,
                     later).astype(jnp.int32)

  def _start(self, word: chex.Array) -> ChainState:
    zero = jnp.zeros((), jnp.int32)
    return ChainState(zero, _bit(word, 31), zero)

  def reset(self, params: ChainParams, key: chex.PRNGKey):
    """Starts an episode; returns its state and observation."""
    del params
    word = jax.random.bits(key, (), jnp.uint32)
    state = self._start(word)
    return state, self._observe(state, word)

  def reset_midway(self, params: ChainParams, key: chex.PRNGKey):
    """Starts at a uniformly drawn step, as if the first action was random."""
    time_key, word_key = jax.random.split(key)
    time = jax.random.randint(time_key, (), 0, params.length, jnp.int32)
    word = jax.random.bits(word_key, (), jnp.uint32)
    state = ChainState(time, _bit(word, 31),
                       jnp.where(time > 0, _bit(word, 30), 0))
    return state, self._observe(state, word)

  def step(self, params: ChainParams, state: ChainState, action: chex.Array,
           key: chex.PRNGKey) -> tuple[ChainState, base.TimeStep]:
    """Takes a step; starts a new episode where one ended."""
    word = jax.random.bits(key, (), jnp.uint32)
    correct = jnp.where(state.time == 0,
                        (action == state.right_action).astype(jnp.int32),
                        state.correct)
    time = state.time + 1
    ended = time >= params.length
    reward = jnp.where(ended, 2 * correct - 1, 0)
    if self.settings.noisy_rewards:
      in_the_middle = (state.time > 0) & ~ended
      reward = jnp.where(in_the_middle, 2 * _bit(word, 29) - 1, reward)
    next_state = ChainState(time, state.right_action, correct)
    new_state = jax.tree_util.tree_map(
        lambda a, b: jnp.where(ended, a, b), self._start(word), next_state)
    return new_state, base.TimeStep(
        self._observe(new_state, word), reward.astype(jnp.float32),
        jnp.where(ended, 0., 1.).astype(jnp.float32))
