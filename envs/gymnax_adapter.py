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
from lpg_distributed.envs import protocol
from lpg_distributed.envs import user_module

_NO_LIMIT = 2 ** 31 - 1  # step limit of an episode if none is known

def _import_gymnax():
  try:
    import gymnax
  except ImportError as error:
    raise ImportError(
        f'gymnax environments need gymnax, which cannot be imported ({error}); '
        'install it with: pip install gymnax') from None
  return gymnax


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Hides gymnax's warnings about number types while it is traced."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    yield


def _is(space: Any, kind: str) -> bool:
  """Whether a space is of a kind, by its class's name and attributes.

  Environments written for gymnax may bring classes of their own.
  """
  fields = {'Discrete': ('n',), 'Box': ('low', 'high')}[kind]
  return (any(cls.__name__ == kind for cls in type(space).__mro__)
          and all(hasattr(space, field) for field in fields))


class GymnaxEnvironment:
  """See `base.Environment`; a step limit ends an episode like any end.

  `params` are gymnax's own, the same in every lifetime.
  """

  def __init__(self, name: str, environment: Any, params: Any):
    """Takes the results of `gymnax.make`.

    Args:
      name: for messages.
      environment: a `gymnax.environments.environment.Environment`.
      params: parameters of the environment.

    Raises:
      ValueError: actions are not a finite number of choices, or observations
        are not one array.
    """
    self.name = name
    self.max_episode_steps = int(
        getattr(params, 'max_steps_in_episode', None) or _NO_LIMIT)
    self._environment, self._params = environment, params
    action = environment.action_space(params)
    if not _is(action, 'Discrete'):
      raise ValueError(f'{name} has actions of the kind '
                       f'{type(action).__name__}; allowed: Discrete')
    self._num_actions = int(action.n)
    key = jax.random.PRNGKey(0)
    with _quiet():
      # Declared shapes differ from actual ones in some environments.
      seen = protocol.trace(lambda: environment.reset(key, params)[0], name,
                            'reset')
    self._spec = self._find_spec(environment.observation_space(params), seen)

  def _find_spec(self, space: Any, seen: Any) -> base.ObservationSpec:
    name = self.name
    if not hasattr(seen, 'shape') or seen.dtype.kind not in 'buif':
      raise ValueError(f'{name} observes {type(seen).__name__}; allowed: one '
                       'array of numbers')
    if 0 in seen.shape:
      raise ValueError(f'{name} observes nothing: shape {seen.shape}')
    if _is(space, 'Discrete'):
      if seen.shape or seen.dtype.kind == 'f':
        raise ValueError(f'{name} declares a state index and observes '
                         f'{seen.dtype}{list(seen.shape)}; allowed there: one '
                         'whole number')
      return specs.DiscreteArray(int(space.n), name='state')
    if not _is(space, 'Box'):
      raise ValueError(f'{name} has observations of the kind '
                       f'{type(space).__name__}; allowed: Box, Discrete')
    low, high = (np.broadcast_to(np.asarray(x, np.float32), seen.shape)
                 for x in (space.low, space.high))
    return specs.BoundedArray(seen.shape, np.float32, low, high, 'observation')

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
      # A step may return other types, but a loop needs the same types always.
      later = jax.eval_shape(self._environment.step, key, state, jnp.int32(0),
                             params)[1]
    state = jax.tree_util.tree_map(
        lambda x, y: jnp.asarray(x).astype(y.dtype), state, later)
    return state, self._observe(observation)

  def reset_midway(self, params: Any,
                   key: chex.PRNGKey) -> tuple[Any, chex.Array]:
    return protocol.walk(self, params, key)

  def step(self, params: Any, state: Any, action: chex.Array,
           key: chex.PRNGKey) -> tuple[Any, base.TimeStep]:
    with _quiet():
      # gymnax 1.0 distinguishes ends from step limits; 0.0.9 does not.
      observation, state, reward, *ends, _ = self._environment.step(
          key, state, action, params)
    done = functools.reduce(jnp.logical_or, ends)
    return state, base.TimeStep(
        self._observe(observation), jnp.asarray(reward, jnp.float32),
        1. - jnp.asarray(done, jnp.float32))


def _checked(name: str, environment: Any, params: Any) -> GymnaxEnvironment:
  """Traces the environment once, since some of gymnax cannot be traced."""
  wrapped = GymnaxEnvironment(name, environment, params)
  protocol.check_types(wrapped)
  return wrapped


def wrap(environment: Any, name: str) -> GymnaxEnvironment:
  """Adapts an object with the interface of gymnax's environments.

  Raises:
    ValueError: it does not; the message is one line.
  """
  try:
    return _checked(name, environment, environment.default_params)
  except ValueError:
    raise
  except Exception as error:  # The user's code may raise any error.
    raise ValueError(f'{name} is not quite like an environment of gymnax: '
                     f'{user_module.one_line(error)}') from None


def load(name: str) -> GymnaxEnvironment:
  """Makes gymnax's environment `name` with its default parameters.

  Raises:
    ValueError: there is none, or it does not fit; the message is one line.
    ImportError: gymnax is not installed.
  """
  gymnax = _import_gymnax()
  if name not in gymnax.registered_envs:
    near = difflib.get_close_matches(name, gymnax.registered_envs, 3, 0.4)
    hint = f'did you mean {" or ".join(near)}? ' if near else ''
    raise ValueError(f'gymnax has no environment {name!r}; {hint}allowed: '
                     f'{", ".join(gymnax.registered_envs)}')
  try:
    return _checked(name, *gymnax.make(name))
  except ValueError:
    raise
  except Exception as error:  # gymnax does not document its errors.
    raise ValueError(f'gymnax cannot make {name!r}: '
                     f'{user_module.one_line(error)}') from None
