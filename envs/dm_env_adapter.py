"""One pure-JAX environment, of one lifetime, as a `dm_env.Environment`."""

import functools
from typing import Any

import dm_env
from dm_env import specs
import jax
import numpy as np

from lpg_distributed.envs import base


# Compiled once for all adapters around equal environments.
@functools.partial(jax.jit, static_argnums=0)
def _init_params(environment: base.Environment, key):
  params = environment.init_params(key)
  return params, environment.action_mask(params)


@functools.partial(jax.jit, static_argnums=0)
def _reset(environment: base.Environment, params, key):
  key, reset_key = jax.random.split(key)
  return key, environment.reset(params, reset_key)


@functools.partial(jax.jit, static_argnums=0)
def _step(environment: base.Environment, params, state, action, key):
  key, step_key = jax.random.split(key)
  return key, environment.step(params, state, action, step_key)


class DmEnv(dm_env.Environment):
  """A lifetime drawn from `seed`, with one environment in it.

  The observation of a LAST step is not the state in which the episode ended
  but the first one of the next episode, as `base.TimeStep` has it: a LAST
  step's discount is 0 (after a step limit too), so nothing is bootstrapped
  from it. The FIRST step that follows has the same observation again.
  """

  def __init__(self, environment: base.Environment, seed: int):
    self._environment = environment
    params_key, self._key = jax.random.split(jax.random.PRNGKey(seed))
    self._params, mask = _init_params(environment, params_key)
    self._mask = np.asarray(mask)
    self._num_actions = int(self._mask.sum())
    if not self._mask[:self._num_actions].all():
      raise ValueError(f'{environment.name}: the actions that exist must be '
                       'the first ones')
    self._state: Any = None
    self._observation: Any = None  # Its first state, if an episode is prepared.

  @property
  def params(self) -> base.EnvParams:
    """Constants of this lifetime."""
    return self._params

  @property
  def action_mask(self) -> np.ndarray:
    """[A] bool, which of the environment's actions exist in this lifetime."""
    return self._mask.copy()

  def observation_spec(self) -> base.ObservationSpec:
    return self._environment.observation_spec()

  def action_spec(self) -> specs.DiscreteArray:
    """Spec of the actions that exist in this lifetime."""
    return specs.DiscreteArray(self._num_actions, name='action')

  def reset(self) -> dm_env.TimeStep:
    """Starts an episode: the prepared one after a LAST step, or a new one."""
    if self._observation is None:
      self._key, (self._state, observation) = _reset(
          self._environment, self._params, self._key)
      self._observation = np.asarray(observation)
    observation, self._observation = self._observation, None
    return dm_env.restart(observation)

  def step(self, action) -> dm_env.TimeStep:
    if self._state is None or self._observation is not None:
      return self.reset()
    number = np.asarray(action)
    if (number.size != 1 or number.dtype.kind not in 'iu'
        or not 0 <= number.item() < self._num_actions):
      raise ValueError(f'action {action} does not exist; allowed: a whole '
                       f'number from 0 to {self._num_actions - 1}')
    self._key, (self._state, timestep) = _step(
        self._environment, self._params, self._state, np.int32(number.item()),
        self._key)
    observation = np.asarray(timestep.observation)
    reward = float(timestep.reward)
    if timestep.discount == 0.:
      self._observation = observation
      return dm_env.termination(reward, observation)
    return dm_env.transition(reward, observation)
