"""Completes and checks environments of users.

An own environment needs `reset`, `step`, its number of actions, and of states
if it observes a state index:

    num_actions = 4                        # or action_spec()
    num_states = 25                        # or observation_spec()
    reset(params, key) -> state, observation
    step(params, state, action, key) -> state, (observation, reward, d_t)

`complete` adds the rest of `base.Environment`. `check` runs an environment for
some steps and says in one line what violates the protocol.
"""

import inspect
from typing import Any, Callable

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.envs import base
from lpg_distributed.envs import user_module

_METHODS = ('init_params', 'action_mask', 'observation_spec', 'action_spec',
            'reset', 'reset_midway', 'step')
_WRONG_STEP = ('step gives something else; allowed: state, (observation, '
               'reward, d_t)')
_NUM_ENVS, _NUM_STEPS = 8, 100  # numbers of steps and copies that `check` runs
_MOST_PHASES = 100  # random steps before a lifetime's first episode


class ProtocolError(ValueError):
  """An environment violates the protocol; the message is one line."""


def _num_arguments(method: Any) -> int:
  """Returns the number of required positional arguments; -1: unknown."""
  try:
    parameters = inspect.signature(method).parameters.values()
  except (TypeError, ValueError):
    return -1
  return sum(p.default is p.empty and p.kind in (
      p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def looks_like_jax(made: Any) -> bool:
  """Checks for `reset(params, key)` and `step(params, state, action, key)`.

  Environments of dm_env and gymnasium have methods of these names with other
  arguments.
  """
  return (_num_arguments(getattr(made, 'reset', None)) == 2
          and _num_arguments(getattr(made, 'step', None)) == 4)


def is_complete(made: Any) -> bool:
  """Returns whether an object has all methods of `base.Environment`."""
  return (all(callable(getattr(made, method, None)) for method in _METHODS)
          and isinstance(getattr(made, 'max_episode_steps', None), int)
          and isinstance(getattr(made, 'name', None), str))


def complete(made: Any, name: str) -> base.Environment:
  """Adds the methods that `made` lacks; returns it unchanged if complete.

  Raises:
    ProtocolError: something that is needed is missing.
  """
  return made if is_complete(made) else _Completed(made, name)


class _Completed:
  """See `base.Environment`; passes on what the user's object has."""

  def __init__(self, made: Any, name: str):
    self.name = name
    self._made = made
    # Without a limit of its own it counts as long in random phases.
    self.max_episode_steps = int(
        getattr(made, 'max_episode_steps', None) or _MOST_PHASES)
    for method in ('reset', 'step'):
      if not callable(getattr(made, method, None)):
        raise ProtocolError(f'{name} has no method {method}; see '
                            'docs/own_environment.md')
    if not hasattr(made, 'action_spec') and not hasattr(made, 'num_actions'):
      raise ProtocolError(f'{name} has neither num_actions nor action_spec(); '
                          'allowed: num_actions = a whole number')
    self._observation_spec = self._find_observation_spec()

  def _find_observation_spec(self) -> base.ObservationSpec:
    if hasattr(self._made, 'observation_spec'):
      return self._made.observation_spec()
    if hasattr(self._made, 'num_states'):
      return specs.DiscreteArray(int(self._made.num_states), name='state')
    key = jax.random.PRNGKey(0)
    _, seen = trace(lambda: self.reset(self.init_params(key), key), self.name,
                    'reset')
    if seen.shape == () and jnp.issubdtype(seen.dtype, jnp.integer):
      raise ProtocolError(f'{self.name} observes one whole number and has no '
                          'num_states; allowed: num_states = how many there '
                          'are')
    return specs.BoundedArray(seen.shape, seen.dtype, -np.inf, np.inf,
                              'observation') if seen.dtype.kind == 'f' else (
        specs.Array(seen.shape, seen.dtype, 'observation'))

  def observation_spec(self) -> base.ObservationSpec:
    return self._observation_spec

  def action_spec(self) -> specs.DiscreteArray:
    if hasattr(self._made, 'action_spec'):
      return self._made.action_spec()
    return specs.DiscreteArray(int(self._made.num_actions), name='action')

  def init_params(self, key: chex.PRNGKey) -> base.EnvParams:
    if hasattr(self._made, 'init_params'):
      return self._made.init_params(key)
    return jnp.zeros(())  # `vmap` over lifetimes needs an array.

  def action_mask(self, params: base.EnvParams) -> chex.Array:
    if hasattr(self._made, 'action_mask'):
      return self._made.action_mask(params)
    return jnp.ones(int(self.action_spec().num_values), bool)

  def reset(self, params, key):
    state, observation = self._made.reset(params, key)
    return _arrays(state), jnp.asarray(observation)

  def reset_midway(self, params, key):
    if hasattr(self._made, 'reset_midway'):
      return self._made.reset_midway(params, key)
    return walk(self, params, key)

  def step(self, params, state, action, key):
    state, timestep = self._made.step(params, state, action, key)
    if not isinstance(timestep, tuple) or len(timestep) != 3:
      raise ProtocolError(f'{self.name}: {_WRONG_STEP}')
    observation, reward, discount = timestep
    return _arrays(state), base.TimeStep(
        jnp.asarray(observation), jnp.asarray(reward), jnp.asarray(discount))


def _is_number(x: Any) -> bool:
  return getattr(x.dtype, 'kind', '') in tuple('buif')


def _arrays(tree: Any) -> Any:
  """Converts Python numbers to arrays with types that steps do not change."""
  def convert(x):
    x = jnp.asarray(x)
    return x.astype(x.dtype) if _is_number(x) else x
  return jax.tree_util.tree_map(convert, tree)


def walk(environment: base.Environment, params: base.EnvParams,
         key: chex.PRNGKey) -> tuple[base.EnvState, chex.Array]:
  """Starts after a random number of random steps; see `reset_midway`.

  At most 100 steps, and fewer than an episode can have.
  """
  reset_key, length_key, key = jax.random.split(key, 3)
  length = jax.random.randint(
      length_key, (), 0, min(environment.max_episode_steps, _MOST_PHASES))
  logits = jnp.where(environment.action_mask(params), 0., -jnp.inf)

  def step(i, carry):
    action_key, step_key = jax.random.split(jax.random.fold_in(key, i))
    action = jax.random.categorical(action_key, logits).astype(jnp.int32)
    state, timestep = environment.step(params, carry[0], action, step_key)
    return state, timestep.observation

  return jax.lax.fori_loop(0, length, step,
                           environment.reset(params, reset_key))


def trace(function: Callable[[], Any], name: str, what: str) -> Any:
  """Traces `function`; returns the shapes and types of its result.

  Raises:
    ProtocolError: it cannot be traced.
  """
  try:
    return jax.eval_shape(function)
  except ProtocolError:
    raise
  except Exception as error:  # The user's code may raise any error.
    # JAX's messages have many lines; the first states the cause.
    reason = user_module.one_line(error).split(' See https')[0]
    raise ProtocolError(f'{name}: {what} cannot be compiled by JAX '
                        f'({reason})') from None


def _describe(x: Any) -> str:
  return f'{x.dtype}{list(x.shape)}'


def _check_observation(observation: Any, spec: Any, name: str,
                       where: str) -> None:
  if isinstance(spec, specs.DiscreteArray):
    if observation.shape or observation.dtype != jnp.int32:
      raise ProtocolError(f'{name}: {where} gives the state index as '
                          f'{_describe(observation)}; allowed: int32[]')
  elif (observation.shape != tuple(spec.shape)
        or observation.dtype != spec.dtype):
    raise ProtocolError(
        f'{name}: {where} gives an observation of {_describe(observation)}; '
        f'its specification says {spec.dtype}{list(spec.shape)}')
  elif not _is_number(observation):
    raise ProtocolError(f'{name}: {where} gives an observation of '
                        f'{_describe(observation)}; allowed: numbers')


def _check_stored(tree: Any, what: str, name: str) -> None:
  """Checks that checkpoints can hold all arrays."""
  for x in jax.tree_util.tree_leaves(tree):
    if not _is_number(x):
      raise ProtocolError(f'{name}: a part of its {what} is {_describe(x)}; '
                          'allowed: numbers, also jax.random.PRNGKey')


def check_types(environment: base.Environment) -> None:
  """Checks shapes and types, which needs no compilation.

  Raises:
    ProtocolError: one that does not fit.
  """
  name, key = environment.name, jax.random.PRNGKey(0)
  try:
    spec = environment.observation_spec()
    num_actions = int(environment.action_spec().num_values)
  except Exception as error:  # The user's code may raise any error.
    raise ProtocolError(f'{name}: its specifications cannot be read '
                        f'({user_module.one_line(error)}); allowed: '
                        'num_actions and num_states, or those of dm_env'
                        ) from None
  if num_actions < 2:
    raise ProtocolError(f'{name} has {num_actions} actions; allowed: 2 or more')
  if 0 in tuple(spec.shape):
    raise ProtocolError(f'{name} observes nothing: shape {tuple(spec.shape)}')
  params = trace(lambda: environment.init_params(key), name, 'init_params')
  mask = trace(lambda: environment.action_mask(
      environment.init_params(key)), name, 'action_mask')
  if mask.shape != (num_actions,) or mask.dtype != jnp.bool_:
    raise ProtocolError(f'{name}: action_mask gives {_describe(mask)}; '
                        f'allowed: bool[{num_actions}]')
  _check_stored(params, 'params', name)
  _check_reset(environment, spec, 'reset')
  _check_step(environment, spec)
  _check_reset(environment, spec, 'reset_midway')


def _check_reset(environment: base.Environment, spec: Any,
                 method: str) -> None:
  name, key = environment.name, jax.random.PRNGKey(0)
  found = trace(lambda: getattr(environment, method)(
      environment.init_params(key), key), name, method)
  if not isinstance(found, tuple) or len(found) != 2:
    raise ProtocolError(f'{name}: {method} gives {type(found).__name__}; '
                        'allowed: state, observation')
  _check_observation(found[1], spec, name, method)


def _check_step(environment: base.Environment, spec: Any) -> None:
  name, key = environment.name, jax.random.PRNGKey(0)

  def both():
    params = environment.init_params(key)
    state, _ = environment.reset(params, key)
    return state, environment.step(params, state, jnp.int32(0), key)

  before, found = trace(both, name, 'step')
  if (not isinstance(found, tuple) or len(found) != 2
      or not isinstance(found[1], tuple) or len(found[1]) != 3):
    raise ProtocolError(f'{name}: {_WRONG_STEP}')
  after, (observation, reward, discount) = found
  _check_observation(observation, spec, name, 'step')
  for what, x, meaning in (
      ('reward', reward, ''),
      ('d_t', discount, ', 1 where the episode goes on and 0 where it has '
       'ended')):
    if x.shape or x.dtype != jnp.float32:
      raise ProtocolError(f'{name}: step gives {what} as {_describe(x)}; '
                          f'allowed: float32[]{meaning}')
  _check_stored(before, 'state', name)
  trees = [jax.tree_util.tree_structure(x) for x in (before, after)]
  if trees[0] != trees[1]:
    raise ProtocolError(f'{name}: the state after step is a tree of another '
                        'form than that after reset')
  for x, y in zip(*map(jax.tree_util.tree_leaves, (before, after))):
    if (x.shape, x.dtype) != (y.shape, y.dtype):
      raise ProtocolError(f'{name}: a part of the state is {_describe(x)} '
                          f'after reset and {_describe(y)} after step; '
                          'allowed: the same')


def _rollout(environment: base.Environment) -> Callable[..., Any]:
  """Compiles a function from a key to statistics of random actions."""
  def run(key):
    params = environment.init_params(key)
    logits = jnp.where(environment.action_mask(params), 0., -jnp.inf)
    reset_key, key = jax.random.split(key)
    carry = jax.vmap(environment.reset_midway, (None, 0))(
        params, jax.random.split(reset_key, _NUM_ENVS))

    def step(carry, key):
      action_key, step_key = jax.random.split(key)
      action = jax.random.categorical(
          action_key, logits, shape=(_NUM_ENVS,)).astype(jnp.int32)
      state, timestep = jax.vmap(environment.step, (None, 0, 0, 0))(
          params, carry[0], action, jax.random.split(step_key, _NUM_ENVS))
      return (state, timestep.observation), (carry[1], *timestep[1:])

    return jax.lax.scan(step, carry, jax.random.split(key, _NUM_STEPS))[1]

  return jax.jit(run)


def check(environment: base.Environment) -> None:
  """Checks types, and 100 steps of 8 copies under random actions.

  Raises:
    ProtocolError: the environment violates the protocol.
  """
  check_types(environment)
  name, key = environment.name, jax.random.PRNGKey(0)
  # Layouts of lifetimes are the arrays that `jax.vmap` maps over.
  if not jax.tree_util.tree_leaves(environment.init_params(key)):
    raise ProtocolError(f'{name}: init_params gives no array; allowed: at '
                        'least one, or no init_params')
  try:  # Traced twice, so that random numbers of NumPy would differ.
    observation, reward, discount = found = jax.tree_util.tree_map(
        np.asarray, _rollout(environment)(key))
    again = jax.tree_util.tree_map(np.asarray, _rollout(environment)(key))
  except Exception as error:  # The user's code may raise any error.
    raise ProtocolError(f'{name}: reset and step fail under jax.jit and '
                        f'jax.vmap ({user_module.one_line(error)})') from None
  if not all(np.array_equal(x, y, equal_nan=x.dtype.kind == 'f')
             for x, y in zip(found, again)):
    raise ProtocolError(f'{name}: the same key gives different episodes; '
                        'allowed: pure functions whose only randomness is '
                        'their key')
  spec = environment.observation_spec()
  if isinstance(spec, specs.DiscreteArray):
    states = int(spec.num_values)
    if observation.min() < 0 or observation.max() >= states:
      raise ProtocolError(
          f'{name} observes state {observation.min()} to {observation.max()}; '
          f'its specification allows 0 to {states - 1}')
  for what, values in (('an observation', observation), ('a reward', reward)):
    if not np.all(np.isfinite(values)):
      raise ProtocolError(f'{name} gives {what} that is not finite')
  if not np.all((discount == 0.) | (discount == 1.)):
    raise ProtocolError(
        f'{name}: step gives d_t from {discount.min():g} to '
        f'{discount.max():g}; allowed: 1 where the episode goes on and 0 where '
        'it has ended')
