"""The protocol of environments on the host: NumPy batches, auto-reset.

For environments that JAX cannot trace, such as emulators. One object holds all
parallel environments. The pure-JAX counterpart is `envs.base`; `TimeStep`'s
meaning of `discount` and of the observation at an episode's end is the same.
"""

from typing import NamedTuple, Protocol

from dm_env import specs
import numpy as np

from lpg_distributed import errors


class EnvironmentFailure(errors.UserError, ValueError):
  """An environment raised, or returned an invalid value; one line."""


class HostStep(NamedTuple):
  """Result of one step of B environments.

  Where `discount` is 0 the episode has ended within this step, by itself or by
  a limit, and `observation` is already the first one of the next episode
  (reset within the same step); nothing may be bootstrapped from it.
  """
  observation: np.ndarray  # [B, ...]
  reward: np.ndarray  # [B] float32, as the environment gives it: not clipped
  discount: np.ndarray  # [B] float32, d_t: 0 if the episode ended, else 1
  # Undiscounted returns of raw rewards, of the episodes that ended in this
  # step, in the order of environments; empty if none ended.
  episode_returns: tuple[float, ...]


class HostEnvironment(Protocol):
  """B parallel environments that step together."""

  num_envs: int  # B
  frames_per_step: int  # of the emulator, per environment and step; else 1

  def observation_spec(self) -> specs.BoundedArray:
    """Spec of one environment's observation, without the B axis."""

  def action_spec(self) -> specs.DiscreteArray:
    """Spec of one environment's action."""

  def reset(self, seed: int) -> np.ndarray:
    """Starts new episodes everywhere; returns observations [B, ...].

    Environments differ in their randomness, and the same seed gives the same
    stream again.
    """

  def step(self, actions: np.ndarray) -> HostStep:
    """Takes [B] int32 actions; starts a new episode where one has ended."""

  def close(self) -> None:
    """Frees all resources; the environments cannot be used afterwards."""
