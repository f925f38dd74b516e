"""The environment protocol: pure JAX, one lifetime's parameters, auto-reset.

An environment is a small immutable object; everything that changes lives in
the arrays it passes around. `params` are drawn once per lifetime and shared by
all of the lifetime's parallel environments, `state` belongs to one of them.
Batching is the caller's: `jax.vmap` over states (and over lifetimes).
"""

from typing import Any, NamedTuple, Protocol, Union

import chex
from dm_env import specs

# Trees of arrays that only the environment itself interprets: constants of a
# lifetime (`EnvParams`), and the state of one parallel environment
# (`EnvState`).
EnvParams = Any
EnvState = Any

ObservationSpec = Union[specs.DiscreteArray, specs.BoundedArray]


class TimeStep(NamedTuple):
  """Result of one step.

  Where `discount` is 0 the episode has ended, `observation` is already the
  first one of the next episode, and nothing may be bootstrapped from it.
  """
  observation: chex.Array  # [] int32 for a table, else [...] uint8 in {0, 1}
  reward: chex.Array  # [] float32
  discount: chex.Array  # [] float32, d_t: 0 if the episode ended, else 1


class Environment(Protocol):
  """Pure-JAX environment; all methods are safe under `jit` and `vmap`."""

  name: str
  max_episode_steps: int

  def observation_spec(self) -> ObservationSpec:
    """`DiscreteArray` if a state index is observed, else `BoundedArray`."""

  def action_spec(self) -> specs.DiscreteArray:
    """Spec of A actions; `action_mask` selects those of a lifetime."""

  def init_params(self, key: chex.PRNGKey) -> EnvParams:
    """Draws the constants of a lifetime: layout, action space, length."""

  def action_mask(self, params: EnvParams) -> chex.Array:
    """[A] bool, the actions that exist in this lifetime."""

  def reset(
      self, params: EnvParams, key: chex.PRNGKey
  ) -> tuple[EnvState, chex.Array]:
    """Starts an episode; returns its state and first observation."""

  def reset_midway(
      self, params: EnvParams, key: chex.PRNGKey
  ) -> tuple[EnvState, chex.Array]:
    """Starts at a uniformly random time of an episode.

    Used at the start of a lifetime, so that parallel environments with
    episodes of equal length do not stay in step with each other and with the
    windows of the meta-gradient.
    """

  def step(
      self,
      params: EnvParams,
      state: EnvState,
      action: chex.Array,
      key: chex.PRNGKey,
  ) -> tuple[EnvState, TimeStep]:
    """Takes `action`, [] int32; starts a new episode if this one ended."""
