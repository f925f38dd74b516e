"""Environments that break their own specifications are refused in one line."""

import dm_env
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.core import observation_networks
from lpg_distributed.envs import dm_env_adapter
from lpg_distributed.envs import gymnax_adapter
from lpg_distributed.envs import host
from lpg_distributed.envs import host_batch
from lpg_distributed.envs import registry
from lpg_distributed.envs import suite

gymnasium = pytest.importorskip('gymnasium')
spaces = gymnasium.spaces

THIS = 'module/tests.envs.test_odd_environments'


class Odd(gymnasium.Env):
  """Every step gives the observation and the reward of the test."""
  action_space = spaces.Discrete(2)

  def __init__(self, space, observation, reward=1.):
    self.observation_space = space
    self.observation, self.reward = observation, reward

  def reset(self, seed=None, options=None):
    return self.observation, {}

  def step(self, action):
    return self.observation, self.reward, False, False, {}


def box(dtype, low=0, high=1, shape=(2,)):
  return spaces.Box(low, high, shape, dtype)


def batch_of(*args, **kwargs):
  return host_batch.HostBatch(lambda: Odd(*args, **kwargs), 2, 'odd')


def refused(call, *args):
  with pytest.raises(host.EnvironmentFailure) as info:
    call(*args)
  assert '\n' not in str(info.value)
  return str(info.value)


@pytest.mark.parametrize('space, observation, message', [
    (box(np.uint8), np.array([0.2, 0.8]),
     'odd gave an observation with 0.2, which its declared type uint8 cannot '
     'hold; allowed: a specification with a type that can, as np.float32'),
    (box(np.uint8, 0, 255), np.array([0, 256]), 'with 256'),
    (box(np.uint8, 0, 255), np.array([-1, 0]), 'with -1'),
    (box(np.int32), np.array([np.nan, 0.]), 'with nan'),
    (box(np.float32), np.array([np.nan, 0.]), 'not finite'),
    (box(np.float32), np.array([1e39, 0.]), 'with 1e+39'),
    (box(np.float32), np.array(['a', 'b']), 'allowed: one array of numbers'),
    (box(np.float32), None, 'an observation of NoneType'),
    (box(np.float32), [[1.], [1., 2.]], 'an observation of list'),
    (box(np.float32), np.zeros(3), 'shape (3,); its specification says (2,)'),
    (spaces.Discrete(3), 3, 'gave state 3; its specification allows 0 to 2'),
    (spaces.Discrete(3), 0.5, 'with 0.5, which its declared type int32'),
])
def test_observations_that_their_type_cannot_hold_are_refused(
    space, observation, message):
  assert message in refused(batch_of(space, observation).reset, 0)


@pytest.mark.parametrize('space, observation', [
    (box(np.uint8, 0, 255), np.array([3., 255.])),
    (box(np.float32), np.array([0.1, 0.2])),  # float64, rounded
    (box(np.float32), [0, 1]),
    (spaces.Discrete(3, start=1), np.int64(3)),
    (spaces.MultiBinary(2), np.array([0, 1], np.int8)),
    (box(bool), np.array([True, False])),
])
def test_observations_that_fit_are_converted(space, observation):
  batch = batch_of(space, observation)
  spec = batch.observation_spec()
  found = batch.reset(0)
  assert found.dtype == spec.dtype
  np.testing.assert_allclose(found[0], np.asarray(observation) - (
      1 if isinstance(space, spaces.Discrete) else 0), rtol=1e-6)


@pytest.mark.parametrize('reward', [
    None, [1.], np.nan, np.inf, 1e39, 'one', np.ones(2), 1j])
def test_rewards_that_are_no_number_are_refused(reward):
  batch = batch_of(box(np.float32), np.zeros(2), reward)
  batch.reset(0)
  message = refused(batch.step, np.zeros(2, np.int32))
  assert message.startswith('odd gave a reward of ')
  assert 'allowed: a finite number' in message


@pytest.mark.parametrize('reward', [1, True, np.float64(1.), np.ones(1),
                                    np.int64(1), jnp.float32(1.)])
def test_rewards_that_are_a_number_are_converted(reward):
  batch = batch_of(box(np.float32), np.zeros(2), reward)
  batch.reset(0)
  np.testing.assert_array_equal(batch.step(np.zeros(2, np.int32)).reward, 1.)


def test_an_empty_observation_space_is_refused():
  assert 'observes nothing: shape (0,)' in refused(
      batch_of, box(np.float32, shape=(0,)), np.zeros(0))


class BareReset(Odd):

  def reset(self, seed=None, options=None):
    return self.observation


class NoSeed(Odd):

  def reset(self):
    return self.observation, {}


class FourValues(Odd):

  def step(self, action):
    return self.observation, 1., False, {}


class Bare(Odd):

  def step(self, action):
    return self.observation


@pytest.mark.parametrize('shape', [(), (2,)])
def test_the_interface_of_old_gym_is_refused(shape):
  make = lambda cls: host_batch.HostBatch(
      lambda: cls(box(np.float32, shape=shape), np.zeros(shape)), 1, 'old')
  assert refused(make, NoSeed) == (
      'old: its reset has no parameter seed, as in old versions of gym; '
      'allowed: reset(seed=None, options=None) -> (observation, info), as in '
      'gymnasium')
  assert refused(make(BareReset).reset, 0).startswith(
      'old: reset returned ndarray, as in old versions of gym; allowed: reset(')
  for cls, what in ((FourValues, '4 values'), (Bare, 'ndarray')):
    batch = make(cls)
    batch.reset(0)
    assert refused(batch.step, np.zeros(1, np.int32)) == (
        f'old: step returned {what}, as in old versions of gym; allowed: '
        '(observation, reward, terminated, truncated, info), as in gymnasium')


class Raising(Odd):

  def reset(self, seed=None, options=None):
    raise RuntimeError('no\nlicence')


class RaisingClose(Odd):

  def close(self):
    raise RuntimeError('closed twice')


def test_errors_of_an_environment_name_it():
  space = box(np.float32)
  batch = host_batch.HostBatch(lambda: Raising(space, None), 1, 'odd')
  assert refused(batch.reset, 0) == (
      'odd: reset raised RuntimeError: no licence')
  assert refused(host_batch.HostBatch, lambda: 1 // 0, 1, 'odd') == (
      'odd: making it raised ZeroDivisionError: integer division or modulo by '
      'zero')
  batch = host_batch.HostBatch(
      lambda: RaisingClose(space, np.zeros(2)), 2, 'odd')
  batch.close()  # Logs the error and continues.


class NoTimeSteps(dm_env.Environment):

  def observation_spec(self):
    return specs.Array((2,), np.float32)

  def action_spec(self):
    return specs.DiscreteArray(2)

  def reset(self):
    return np.zeros(2)

  def step(self, action):
    return np.zeros(2)


def test_a_dm_env_without_time_steps_is_refused():
  batch = host_batch.HostBatch(NoTimeSteps, 1, 'odd')
  assert refused(batch.reset, 0) == (
      'odd: reset returned ndarray; allowed: a dm_env.TimeStep')


def needs_a_seed(seed):
  return Odd(box(np.float32), np.full(2, float(seed % 2)))


def cannot_be_made():
  raise KeyError('data set')


def test_functions_that_make_environments_get_a_seed():
  batch = registry.load(f'{THIS}:needs_a_seed').make_host(40)
  assert set(batch.reset(0)[:, 0]) == {0., 1.}
  assert refused(registry.load, f'{THIS}:cannot_be_made') == (
      'module/tests.envs.test_odd_environments:cannot_be_made raised '
      "KeyError: 'data set'")


def test_a_module_that_cannot_be_imported_is_refused(tmp_path, monkeypatch):
  (tmp_path / 'broken_module.py').write_text('1 // 0\n')
  (tmp_path / 'leaving_module.py').write_text('raise SystemExit(3)\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  for name in ('broken', 'leaving'):
    with pytest.raises(ValueError, match='cannot be imported'):
      registry.load(f'module/{name}_module:f')


def test_an_id_with_an_unknown_package_is_refused():
  pytest.importorskip('ale_py')
  batch = registry.load('gymnasium/ALE/Pong-v5').make_host(1)
  assert batch.action_spec().num_values == 6
  with pytest.raises(ValueError, match='PACKAGE:ID where an import'):
    registry.load('gymnasium/Nowhere/Pong-v5').make_host(1)


class Discrete:
  """A space that is not of a class of gymnax."""

  def __init__(self, n):
    self.n, self.shape, self.dtype = n, (), jnp.int32


class Box:

  def __init__(self):
    self.low, self.high, self.shape, self.dtype = 0., 1., (), jnp.float32


class LikeGymnax:
  """Has no step limit, and a scalar as observation."""
  default_params = ()

  def action_space(self, params=None):
    return Discrete(3)

  def observation_space(self, params=None):
    return Box()

  def reset_env(self, key, params):
    raise NotImplementedError

  step_env = reset_env

  def reset(self, key, params=None):
    return jnp.float32(0.5), jnp.int32(0)

  def step(self, key, state, action, params=None):
    ended = state == 3
    return jnp.float32(0.5), jnp.where(ended, 0, state + 1), 1., ended, {}


def test_environments_like_those_of_gymnax_are_loaded():
  environment = registry.load(f'{THIS}:LikeGymnax').jax
  assert environment.observation_spec().shape == ()
  assert environment.action_spec().num_values == 3
  params = environment.init_params(None)
  state, _ = environment.reset(params, jax.random.PRNGKey(0))
  discounts = []
  for _ in range(8):
    state, timestep = environment.step(params, state, 0, None)
    discounts.append(float(timestep.discount))
  assert discounts == [1., 1., 1., 0.] * 2


def fractional_state():
  made = LikeGymnax()
  made.observation_space = lambda params=None: Discrete(2)
  return made


def without_params():
  made = LikeGymnax()
  made.action_space = lambda params: params.no_such_field
  return made


@pytest.mark.parametrize('name, message', [
    ('fractional_state', 'declares a state index and observes float32[]'),
    ('without_params', 'is not quite like an environment of gymnax: '
     'AttributeError'),
])
def test_environments_unlike_those_of_gymnax_are_refused(name, message):
  with pytest.raises(ValueError) as info:
    registry.load(f'{THIS}:{name}')
  assert message in str(info.value) and '\n' not in str(info.value)


def test_an_environment_that_cannot_be_compiled_is_refused():
  """Its state has a scalar where its step reads an array."""
  with pytest.raises(ValueError) as info:
    gymnax_adapter.load('SimpleBandit-bsuite')
  assert str(info.value).startswith(
      'SimpleBandit-bsuite: reset cannot be compiled by JAX (IndexError: Too '
      'many indices')
  assert '\n' not in str(info.value)


@pytest.mark.parametrize('dtype, low, high, scale', [
    (np.uint8, 0, 255, 255.), (np.int32, 0, 255, 255.),
    (np.int32, -2 ** 31, 2 ** 31 - 1, 1.), (np.uint8, 0, 10, 1.)])
def test_only_pixels_are_scaled(dtype, low, high, scale):
  spec = specs.BoundedArray((2,), dtype, low, high)
  network = observation_networks.make_network(spec, 3)
  plain = observation_networks.make_network(
      specs.BoundedArray((2,), np.float32, low, high), 3)
  params = network.init(jax.random.PRNGKey(0))
  x = np.array([[3, 7]], dtype)
  np.testing.assert_allclose(
      network.apply(params, x), plain.apply(params, x / np.float32(scale)),
      rtol=1e-6)


@pytest.mark.parametrize('action', [0.5, np.nan, np.zeros(2, int), None, 9])
def test_actions_that_do_not_exist_are_refused(action):
  environment = dm_env_adapter.DmEnv(suite.load('chain_short'), 0)
  environment.reset()
  with pytest.raises(ValueError, match='allowed: a whole number from 0 to'):
    environment.step(action)
