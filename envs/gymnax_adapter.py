"""Environments of gymnax behind the pure-JAX protocol of `base`.

gymnax is imported when an environment is made and by nothing else.
"""

import contextlib
import difflib
import functools
from typing import Any, Iterator
import warnings

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.envs import base


def _import_gymnax():
  try:
    import gymnax
    from gymnax.environments import spaces
  except ImportError as error:
    raise ImportError(
        f'gymnax environments need gymnax, which cannot be imported ({error}); '
        'install it with: pip install gymnax') from None
  return gymnax, spaces


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """While gymnax is traced, which warns of types of numbers."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    yield


class GymnaxEnvironment:
  """See `base.Environment`; a step limit ends an episode like any end.

  `params` are gymnax's own, the same in every lifetime.
  """

  def __init__(self, name: str, environment: Any, params: Any):
    """Takes what `gymnax.make` returns.

    Args:
      name: for messages.
      environment: a `gymnax.environments.environment.Environment`.
      params: of it.

    Raises:
      ValueError: actions are not a finite number of choices, or observations
        are not one array.
    """
    _, spaces = _import_gymnax()
    self.name = name
    self.max_episode_steps = int(params.max_steps_in_episode)
    self._environment, self._params = environment, params
    action = environment.action_space(params)
    if not isinstance(action, spaces.Discrete):
      raise ValueError(f'{name} has actions of the kind '
                       f'{type(action).__name__}; allowed: Discrete')
    self._num_actions = int(action.n)
    observation = environment.observation_space(params)
    if isinstance(observation, spaces.Discrete):
      self._spec = specs.DiscreteArray(int(observation.n), name='state')
    elif isinstance(observation, spaces.Box):
      # What gymnax says of shapes is not always what it does.
      shape = jax.eval_shape(environment.reset, jax.random.PRNGKey(0),
                             params)[0].shape
      low, high = (np.broadcast_to(np.asarray(x, np.float32), shape)
                   for x in (observation.low, observation.high))
      self._spec = specs.BoundedArray(shape, np.float32, low, high,
                                      'observation')
    else:
      raise ValueError(f'{name} has observations of the kind '
                       f'{type(observation).__name__}; allowed: Box, Discrete')

  def observation_spec(self) -> base.ObservationSpec:
    return self._spec

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(self._num_actions, name='action')

  def init_params(self, key: chex.PRNGKey) -> Any:
    del key
    return jax.tree_util.tree_map(jnp.asarray, self._params)

  def action_mask(self, params: Any) -> chex.Array:
    del params
    return jnp.ones(self._num_actions, bool)

  def _observe(self, observation: chex.Array) -> chex.Array:
    if isinstance(self._spec, specs.DiscreteArray):
      return observation.astype(jnp.int32)
    return observation.astype(jnp.float32)

  def reset(self, params: Any, key: chex.PRNGKey) -> tuple[Any, chex.Array]:
    with _quiet():
      observation, state = self._environment.reset(key, params)
      # A step may give other types of numbers; a loop wants them always.
      later = jax.eval_shape(self._environment.step, key, state, jnp.int32(0),
                             params)[1]
    state = jax.tree_util.tree_map(
        lambda x, y: jnp.asarray(x).astype(y.dtype), state, later)
    return state, self._observe(observation)

  # gymnax cannot start within an episode.
  reset_midway = reset

  def step(self, params: Any, state: Any, action: chex.Array,
           key: chex.PRNGKey) -> tuple[Any, base.TimeStep]:
    with _quiet():
      # gymnax 1.0 tells ends of its own from step limits, 0.0.9 does not.
      observation, state, reward, *ends, _ = self._environment.step(
          key, state, action, params)
    done = functools.reduce(jnp.logical_or, ends)
    return state, base.TimeStep(
        self._observe(observation), jnp.asarray(reward, jnp.float32),
        1. - done.astype(jnp.float32))


def load(name: str) -> GymnaxEnvironment:
  """Makes the environment that gymnax calls `name`, with its defaults.

  Raises:
    ValueError: there is none, or it does not fit; the message is one line.
    ImportError: gymnax is not installed.
  """
  gymnax, _ = _import_gymnax()
  if name not in gymnax.registered_envs:
    near = difflib.get_close_matches(name, gymnax.registered_envs, 3, 0.4)
    hint = f'did you mean {" or ".join(near)}? ' if near else ''
    raise ValueError(f'gymnax has no environment {name!r}; {hint}allowed: '
                     f'{", ".join(gymnax.registered_envs)}')
  return GymnaxEnvironment(name, *gymnax.make(name))
