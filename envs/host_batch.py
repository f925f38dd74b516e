"""B environments, each an object of its own, behind the host-side protocol.

For any `dm_env.Environment` and any `gymnasium.Env`. They are stepped one
after another in Python.
"""

import inspect
from typing import Any, Callable, NamedTuple, Protocol

import dm_env
from dm_env import specs
import numpy as np

from lpg_distributed.envs import host


class _Step(NamedTuple):
  observation: Any
  reward: float
  ended: bool


class _Single(Protocol):
  """One environment as `HostBatch` wants it."""
  observation_spec: specs.Array
  action_spec: specs.DiscreteArray

  def reset(self, seed: int | None) -> Any:
    """Starts an episode; `seed` is None but for the first."""

  def step(self, action: int) -> _Step:
    """Does not start the next episode."""

  def close(self) -> None:
    """Frees what it holds."""


def _array_spec(spec: Any, name: str) -> specs.Array:
  """`spec` if agents can see it, with float64 as float32.

  Raises:
    ValueError: it is not one array of numbers.
  """
  if not isinstance(spec, specs.Array):
    raise ValueError(f'{name} observes {type(spec).__name__}; allowed: one '
                     'array of numbers (flatten or stack the parts)')
  if isinstance(spec, specs.DiscreteArray):
    return spec
  if spec.dtype.kind not in 'buif':
    raise ValueError(f'{name} observes an array of {spec.dtype}; allowed: '
                     'numbers')
  dtype = np.float32 if spec.dtype == np.float64 else spec.dtype
  if isinstance(spec, specs.BoundedArray):
    return specs.BoundedArray(spec.shape, dtype, spec.minimum, spec.maximum,
                              spec.name)
  return specs.Array(spec.shape, dtype, spec.name)


class _DmEnv:
  """A `dm_env.Environment`."""

  def __init__(self, environment: dm_env.Environment, name: str):
    self._environment = environment
    self.observation_spec = _array_spec(environment.observation_spec(), name)
    action = environment.action_spec()
    if not (isinstance(action, specs.DiscreteArray) or (
        isinstance(action, specs.BoundedArray) and action.shape == ()
        and action.dtype.kind in 'iu' and action.minimum == 0)):
      raise ValueError(f'{name} has actions {action}; allowed: a '
                       'DiscreteArray')
    self._action_dtype = action.dtype
    self.action_spec = specs.DiscreteArray(int(action.maximum) + 1,
                                           name='action')

  def reset(self, seed):
    del seed  # The factory was given it.
    return self._environment.reset().observation

  def step(self, action):
    step = self._environment.step(self._action_dtype.type(action))
    return _Step(step.observation, step.reward, step.last())

  def close(self):
    self._environment.close()


class _Gymnasium:
  """A `gymnasium.Env`."""

  def __init__(self, environment: Any, name: str):
    from gymnasium import spaces
    self._environment = environment
    action, seen = environment.action_space, environment.observation_space
    if not isinstance(action, spaces.Discrete):
      raise ValueError(f'{name} has actions {action}; allowed: Discrete')
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
      self.observation_spec = specs.Array(seen.shape, np.float32)
    else:
      raise ValueError(f'{name} observes a {type(seen).__name__}; allowed: '
                       'Box, Discrete, MultiBinary, MultiDiscrete '
                       '(gymnasium.wrappers.FlattenObservation makes a Box)')

  def _observe(self, observation):
    return observation - self._first_state if self._first_state else observation

  def reset(self, seed):
    return self._observe(self._environment.reset(seed=seed)[0])

  def step(self, action):
    observation, reward, terminated, truncated, _ = self._environment.step(
        int(action) + self._first_action)
    return _Step(self._observe(observation), float(reward),
                 terminated or truncated)

  def close(self):
    self._environment.close()


def is_gymnasium(environment: Any) -> bool:
  """Whether it is a `gymnasium.Env`, without importing gymnasium."""
  return any(cls.__module__.split('.')[0] == 'gymnasium'
             and cls.__name__ == 'Env' for cls in type(environment).__mro__)


def _wrap(environment: Any, name: str) -> _Single:
  if isinstance(environment, dm_env.Environment):
    return _DmEnv(environment, name)
  if is_gymnasium(environment):
    return _Gymnasium(environment, name)
  raise ValueError(f'{name} makes a {type(environment).__name__}; allowed: a '
                   'dm_env.Environment or a gymnasium.Env')


def _takes_seed(factory: Callable[..., Any]) -> bool:
  try:
    parameters = inspect.signature(factory).parameters.values()
  except (TypeError, ValueError):
    return False
  return any(p.name == 'seed' for p in parameters)


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
      ValueError: what it makes does not fit; the message is one line.
    """
    self.num_envs, self._name = num_envs, name
    self._factory, self._takes_seed = factory, _takes_seed(factory)
    self._environments = [self._make(0)]
    self._observation_spec = self._environments[0].observation_spec
    self._action_spec = self._environments[0].action_spec
    self._returns = np.zeros(num_envs)

  def _make(self, seed: int) -> _Single:
    made = (self._factory(seed=seed) if self._takes_seed else self._factory())
    return _wrap(made, self._name)

  def observation_spec(self) -> specs.Array:
    return self._observation_spec

  def action_spec(self) -> specs.DiscreteArray:
    return self._action_spec

  def _stack(self, observations: list[Any]) -> np.ndarray:
    spec = self._observation_spec
    dtype = (np.int32 if isinstance(spec, specs.DiscreteArray)
             else spec.dtype)
    batch = np.asarray(np.stack(observations), dtype)
    if batch.shape[1:] != spec.shape:
      raise ValueError(f'{self._name} gave an observation of shape '
                       f'{batch.shape[1:]}; its specification says '
                       f'{spec.shape}')
    return batch

  def reset(self, seed: int) -> np.ndarray:
    self.close()
    seeds = [int(s) >> 1 for s in
             np.random.SeedSequence(seed).generate_state(self.num_envs)]
    self._environments = [self._make(s) for s in seeds]
    self._returns[:] = 0.
    return self._stack([environment.reset(s) for environment, s in
                        zip(self._environments, seeds)])

  def step(self, actions: np.ndarray) -> host.HostStep:
    observations, episode_returns = [], []
    reward = np.zeros(self.num_envs, np.float32)
    discount = np.ones(self.num_envs, np.float32)
    for i, environment in enumerate(self._environments):
      step = environment.step(int(actions[i]))
      observation = step.observation
      reward[i] = step.reward
      self._returns[i] += step.reward
      if step.ended:
        discount[i] = 0.
        episode_returns.append(float(self._returns[i]))
        self._returns[i] = 0.
        observation = environment.reset(None)
      observations.append(observation)
    return host.HostStep(self._stack(observations), reward, discount,
                         tuple(episode_returns))

  def close(self) -> None:
    for environment in self._environments:
      environment.close()
    self._environments = []
