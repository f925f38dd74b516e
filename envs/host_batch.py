"""B environments, each an object of its own, behind the host-side protocol.

For any `dm_env.Environment` and any `gymnasium.Env`. They are stepped one
after another in Python.
"""

import contextlib
import inspect
from typing import Any, Callable, Iterator, NamedTuple, Protocol

from absl import logging
import dm_env
from dm_env import specs
import numpy as np

from lpg_distributed.envs import host
from lpg_distributed.envs import user_module

_NEW_STEP = ('(observation, reward, terminated, truncated, info), as in '
             'gymnasium')
_NEW_RESET = ('reset(seed=None, options=None) -> (observation, info), as in '
              'gymnasium')


class _Step(NamedTuple):
  observation: Any
  reward: Any
  ended: bool


class _SingleEnvironment(Protocol):
  """The interface of one environment in a `HostBatch`."""
  observation_spec: specs.Array
  action_spec: specs.DiscreteArray

  def reset(self, seed: int | None) -> Any:
    """Starts an episode; `seed` is given for the first one only."""

  def step(self, action: int) -> _Step:
    """Takes a step; does not start the next episode."""

  def close(self) -> None:
    """Frees all resources."""


@contextlib.contextmanager
def _guard(name: str, what: str) -> Iterator[None]:
  """Adds the environment's name to errors of its code."""
  try:
    yield
  except host.EnvironmentFailure:
    raise
  except Exception as error:  # The environment may raise any error.
    raise host.EnvironmentFailure(
        f'{name}: {what} raised {user_module.one_line(error)}') from error


def _array_spec(spec: Any, name: str) -> specs.Array:
  """Checks a spec of observations; converts float64 to float32.

  Raises:
    EnvironmentFailure: it is not one array of numbers.
  """
  if not isinstance(spec, specs.Array):
    raise host.EnvironmentFailure(
        f'{name} observes {type(spec).__name__}; allowed: one array of numbers '
        '(flatten or stack the parts)')
  if isinstance(spec, specs.DiscreteArray):
    return spec
  if spec.dtype.kind not in 'buif':
    raise host.EnvironmentFailure(
        f'{name} observes an array of {spec.dtype}; allowed: numbers')
  if 0 in spec.shape:
    raise host.EnvironmentFailure(
        f'{name} observes nothing: shape {tuple(spec.shape)}; allowed: at '
        'least one number')
  dtype = np.float32 if spec.dtype.kind == 'f' else spec.dtype
  if isinstance(spec, specs.BoundedArray):
    return specs.BoundedArray(spec.shape, dtype, spec.minimum, spec.maximum,
                              spec.name)
  return specs.Array(spec.shape, dtype, spec.name)


class _SingleDmEnv:
  """A `dm_env.Environment`."""

  def __init__(self, environment: dm_env.Environment, name: str):
    self._environment, self._name = environment, name
    self.observation_spec = _array_spec(environment.observation_spec(), name)
    action = environment.action_spec()
    if not (isinstance(action, specs.DiscreteArray) or (
        isinstance(action, specs.BoundedArray) and action.shape == ()
        and action.dtype.kind in 'iu' and action.minimum == 0)):
      raise host.EnvironmentFailure(
          f'{name} has actions {action}; allowed: a DiscreteArray')
    self._action_dtype = action.dtype
    self.action_spec = specs.DiscreteArray(int(action.maximum) + 1,
                                           name='action')

  def _check(self, step: Any, method: str) -> Any:
    if not isinstance(step, dm_env.TimeStep):
      raise host.EnvironmentFailure(
          f'{self._name}: {method} returned {type(step).__name__}; allowed: a '
          'dm_env.TimeStep')
    return step

  def reset(self, seed):
    del seed  # The factory received the seed.
    return self._check(self._environment.reset(), 'reset').observation

  def step(self, action):
    step = self._check(
        self._environment.step(self._action_dtype.type(action)), 'step')
    return _Step(step.observation, step.reward, step.last())

  def close(self):
    self._environment.close()


class _SingleGymnasium:
  """A `gymnasium.Env`."""

  def __init__(self, environment: Any, name: str):
    from gymnasium import spaces
    self._environment, self._name = environment, name
    action, seen = environment.action_space, environment.observation_space
    if not isinstance(action, spaces.Discrete):
      raise host.EnvironmentFailure(
          f'{name} has actions {action}; allowed: Discrete')
    if not _takes(environment.unwrapped.reset, 'seed'):
      raise host.EnvironmentFailure(
          f'{name}: its reset has no parameter seed, as in old versions of '
          f'gym; allowed: {_NEW_RESET}')
    self._first_action = int(action.start)
    self.action_spec = specs.DiscreteArray(int(action.n), name='action')
    self._first_state = 0
    if isinstance(seen, spaces.Discrete):
      self._first_state = int(seen.start)
      self.observation_spec = specs.DiscreteArray(int(seen.n), name='state')
    elif isinstance(seen, spaces.Box):
      self.observation_spec = _array_spec(specs.BoundedArray(
          seen.shape, seen.dtype, seen.low, seen.high, 'observation'), name)
    elif isinstance(seen, (spaces.MultiBinary, spaces.MultiDiscrete)):
      self.observation_spec = _array_spec(
          specs.Array(seen.shape, np.float32), name)
    else:
      raise host.EnvironmentFailure(
          f'{name} observes a {type(seen).__name__}; allowed: Box, Discrete, '
          'MultiBinary, MultiDiscrete (gymnasium.wrappers.FlattenObservation '
          'makes a Box)')

  def _observe(self, observation):
    return observation - self._first_state if self._first_state else observation

  def reset(self, seed):
    found = self._environment.reset(seed=seed)
    if not (isinstance(found, tuple) and len(found) == 2
            and isinstance(found[1], dict)):
      raise host.EnvironmentFailure(
          f'{self._name}: reset returned {_describe(found)}, as in old '
          f'versions of gym; allowed: {_NEW_RESET}')
    return self._observe(found[0])

  def step(self, action):
    found = self._environment.step(int(action) + self._first_action)
    if not isinstance(found, tuple) or len(found) != 5:
      raise host.EnvironmentFailure(
          f'{self._name}: step returned {_describe(found)}, as in old versions '
          f'of gym; allowed: {_NEW_STEP}')
    observation, reward, terminated, truncated, _ = found
    return _Step(self._observe(observation), reward,
                 bool(terminated) or bool(truncated))

  def close(self):
    self._environment.close()


def _describe(found: Any) -> str:
  return (f'{len(found)} values' if isinstance(found, tuple)
          else type(found).__name__)


def is_gymnasium(environment: Any) -> bool:
  """Returns whether an object is a `gymnasium.Env`, without importing it."""
  return any(cls.__module__.split('.')[0] == 'gymnasium'
             and cls.__name__ == 'Env' for cls in type(environment).__mro__)


def _wrap(environment: Any, name: str) -> _SingleEnvironment:
  if isinstance(environment, dm_env.Environment):
    return _SingleDmEnv(environment, name)
  if is_gymnasium(environment):
    return _SingleGymnasium(environment, name)
  raise host.EnvironmentFailure(
      f'{name} makes a {type(environment).__name__}; allowed: a '
      'dm_env.Environment or a gymnasium.Env, or what '
      'docs/own_environment.md describes')


def _takes(function: Callable[..., Any], name: str) -> bool:
  """Returns whether a callable accepts this keyword argument."""
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    return False
  return any(p.name == name and p.kind != p.POSITIONAL_ONLY
             or p.kind == p.VAR_KEYWORD for p in parameters)


def takes_seed(factory: Callable[..., Any]) -> bool:
  """Returns whether a factory of environments has a parameter `seed`."""
  try:
    return 'seed' in inspect.signature(factory).parameters
  except (TypeError, ValueError):
    return False


def _as_reward(reward: Any, name: str) -> np.float32:
  """A reward as float32.

  Raises:
    EnvironmentFailure: it is not one finite number of that type.
  """
  value = np.asarray(reward) if not isinstance(reward, (list, tuple)) else None
  if value is not None and value.size == 1 and value.dtype.kind in 'buif':
    with np.errstate(over='ignore'):
      number = np.float32(value.item())
    if np.isfinite(number):
      return number
  raise host.EnvironmentFailure(
      f'{name} gave a reward of {_short(reward)}; allowed: a finite number of '
      'up to 3.4e38')


def _short(value: Any) -> str:
  text = ' '.join(repr(value).split())
  return text if len(text) <= 60 else text[:60] + ' ...'


class HostBatch:
  """See `host.HostEnvironment`.

  An episode ends where the environment says that it was its last step, whether
  by an end or by a limit of time.
  """

  frames_per_step = 1

  def __init__(self, factory: Callable[..., Any], num_envs: int, name: str):
    """Makes one environment to learn its specifications.

    Args:
      factory: makes a `dm_env.Environment` or a `gymnasium.Env`; called with
        `seed=` where it has a parameter of that name. A `dm_env.Environment`
        has no other way to be repeatable.
      num_envs: B.
      name: for messages.

    Raises:
      EnvironmentFailure: what it makes does not fit.
    """
    self.num_envs, self._name = num_envs, name
    self._factory, self._takes_seed = factory, takes_seed(factory)
    self._environments = [self._make(0)]
    self._observation_spec = self._environments[0].observation_spec
    self._action_spec = self._environments[0].action_spec
    self._returns = np.zeros(num_envs)

  def _make(self, seed: int) -> _SingleEnvironment:
    with _guard(self._name, 'making it'):
      made = (self._factory(seed=seed) if self._takes_seed
              else self._factory())
      return _wrap(made, self._name)

  def observation_spec(self) -> specs.Array:
    return self._observation_spec

  def action_spec(self) -> specs.DiscreteArray:
    return self._action_spec

  def _observation(self, observation: Any) -> np.ndarray:
    """One observation in its declared shape and type.

    Raises:
      EnvironmentFailure: it has others, or the type cannot hold it.
    """
    spec, name = self._observation_spec, self._name
    try:
      found = np.asarray(observation)
    except ValueError:  # Lists of different lengths.
      found = np.asarray(None)
    if found.dtype.kind not in 'buif':
      raise host.EnvironmentFailure(
          f'{name} gave an observation of {type(observation).__name__}; '
          'allowed: one array of numbers')
    if found.shape != spec.shape:
      raise host.EnvironmentFailure(
          f'{name} gave an observation of shape {found.shape}; its '
          f'specification says {spec.shape}')
    is_state = isinstance(spec, specs.DiscreteArray)
    dtype = np.dtype(np.int32) if is_state else spec.dtype
    if found.dtype != dtype:
      found = self._convert(found, dtype)
    if dtype.kind == 'f' and not np.all(np.isfinite(found)):
      raise host.EnvironmentFailure(
          f'{name} gave an observation that is not finite')
    if is_state and not 0 <= found < spec.num_values:
      raise host.EnvironmentFailure(
          f'{name} gave state {found}; its specification allows 0 to '
          f'{spec.num_values - 1}')
    return found

  def _convert(self, found: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(invalid='ignore', over='ignore'):
      converted = found.astype(dtype)
      # Rounding of floating point numbers is allowed.
      lost = (np.isfinite(found) & ~np.isfinite(converted)
              if dtype.kind == 'f' else converted != found)
    if np.any(lost):
      raise host.EnvironmentFailure(
          f'{self._name} gave an observation with '
          f'{found.reshape(-1)[np.argmax(lost)]}, which its declared type '
          f'{dtype} cannot hold; allowed: a specification with a type that '
          'can, as np.float32')
    return converted

  def reset(self, seed: int) -> np.ndarray:
    self.close()
    seeds = [int(s) >> 1 for s in
             np.random.SeedSequence(seed).generate_state(self.num_envs)]
    self._environments = [self._make(s) for s in seeds]
    self._returns[:] = 0.
    return np.stack([self._reset(environment, s) for environment, s in
                     zip(self._environments, seeds)])

  def _reset(self, environment: _SingleEnvironment,
             seed: int | None) -> np.ndarray:
    with _guard(self._name, 'reset'):
      observation = environment.reset(seed)
    return self._observation(observation)

  def step(self, actions: np.ndarray) -> host.HostStep:
    observations, episode_returns = [], []
    reward = np.zeros(self.num_envs, np.float32)
    discount = np.ones(self.num_envs, np.float32)
    for i, environment in enumerate(self._environments):
      with _guard(self._name, 'step'):
        step = environment.step(int(actions[i]))
      reward[i] = _as_reward(step.reward, self._name)
      self._returns[i] += np.asarray(step.reward).item()
      if step.ended:
        discount[i] = 0.
        episode_returns.append(float(self._returns[i]))
        self._returns[i] = 0.
        observations.append(self._reset(environment, None))
      else:
        observations.append(self._observation(step.observation))
    return host.HostStep(np.stack(observations), reward, discount,
                         tuple(episode_returns))

  def close(self) -> None:
    for environment in self._environments:
      try:
        environment.close()
      except Exception as error:  # The others are closed too.
        logging.warning('%s: close raised %s', self._name,
                        user_module.one_line(error))
    self._environments = []
