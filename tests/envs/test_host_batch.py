"""Batches of dm_env and gymnasium environments, and refusals."""

import dm_env
from dm_env import specs
import numpy as np
import pytest

from lpg_distributed.envs import host_batch
from lpg_distributed.envs import registry

THIS = 'module/tests.envs.test_host_batch'


class Countdown(dm_env.Environment):
  """Episodes of 2 + seed % 3 steps; the reward is ten times the action."""

  def __init__(self, seed=0, action=None, observation=None):
    self._length = 2 + seed % 3
    self._action = action or specs.DiscreteArray(4)
    self._observation = observation or specs.BoundedArray(
        (2,), np.float64, 0., 9.)
    self.seed = seed

  def observation_spec(self):
    return self._observation

  def action_spec(self):
    return self._action

  def _observe(self):
    return np.array([self._time, self._length], np.float64)

  def reset(self):
    self._time = 0
    return dm_env.restart(self._observe())

  def step(self, action):
    assert isinstance(action, np.integer)
    self._time += 1
    if self._time == self._length:
      # A limit of time: dm_env's discount stays 1.
      return dm_env.truncation(10. * action, self._observe())
    return dm_env.transition(10. * action, self._observe())


def test_environments_of_dm_env_form_a_batch():
  batch = host_batch.HostBatch(Countdown, 5, 'countdown')
  assert batch.observation_spec().dtype == np.float32
  assert batch.action_spec().num_values == 4
  first = batch.reset(3)
  assert first.shape == (5, 2) and first.dtype == np.float32
  lengths = first[:, 1].astype(int)
  assert set(lengths) <= {2, 3, 4} and len(set(lengths)) > 1
  times, totals = np.zeros(5, int), np.zeros(5)
  for _ in range(8):
    step = batch.step(np.arange(5, dtype=np.int32) % 4)
    times += 1
    np.testing.assert_array_equal(step.reward, 10. * (np.arange(5) % 4))
    totals += step.reward
    ended = times == lengths
    np.testing.assert_array_equal(step.discount, 1. - ended)
    assert step.episode_returns == tuple(totals[ended])
    times[ended] = totals[ended] = 0
    np.testing.assert_array_equal(step.observation[:, 0], times)
  np.testing.assert_array_equal(batch.reset(3), first)
  assert not np.array_equal(batch.reset(4), first)
  batch.close()


def dictionary_env(seed=0):
  return Countdown(seed, observation={'a': specs.Array((1,), np.float32)})


def continuous_env(seed=0):
  return Countdown(seed, action=specs.BoundedArray((2,), np.float32, -1., 1.))


def countdown_env(seed=0):
  return Countdown(seed)


def not_an_env():
  return 3


@pytest.mark.parametrize('env_id, message', [
    (f'{THIS}:dictionary_env', 'observes dict; allowed: one array of numbers'),
    (f'{THIS}:continuous_env', 'allowed: a DiscreteArray'),
    (f'{THIS}:not_an_env', 'makes a int; allowed: a dm_env.Environment or a '
     'gymnasium.Env'),
    (f'{THIS}:nothing', "has no function 'nothing'"),
    ('module/tests.no_such_module:f', 'cannot be imported'),
    ('module/tests', 'names no function; allowed: '
     'module/PACKAGE.MODULE:FUNCTION'),
    ('breakout', "'breakout' names no environment; did you mean "
     'atari/breakout? allowed: KIND/NAME'),
    ('gym/CartPole-v1', 'with KIND one of atari, gymnax, bsuite'),
    ('atari/brekout', 'did you mean breakout'),
])
def test_unsupported_environments_are_refused(env_id, message):
  with pytest.raises(ValueError) as info:
    registry.load(env_id).make_host(2)
  assert message in str(info.value) and '\n' not in str(info.value)


def test_an_environment_of_a_module_path_is_loaded():
  loaded = registry.load(f'{THIS}:countdown_env')
  assert loaded.jax is None and loaded.kind == 'module'
  batch = loaded.make_host(2)
  assert batch.reset(0).shape == (2, 2)


def test_equal_seeds_repeat_bsuites_own_randomness():
  """deep_sea_stochastic has a generator of its own, which is seeded too."""
  pytest.importorskip('bsuite')
  batch = registry.load('bsuite/deep_sea_stochastic/0').make_host(1)

  def play():
    return [batch.reset(5), *(batch.step(np.int32([t % 2])).observation
                              for t in range(60))]

  assert np.array_equal(play(), play())


def test_environments_of_bsuite_form_a_batch():
  pytest.importorskip('bsuite')
  batch = registry.load('bsuite/catch/0').make_host(3)
  assert batch.observation_spec().shape == (10, 5)
  first = batch.reset(0)
  assert first.shape == (3, 10, 5) and first.dtype == np.float32
  for t in range(1, 28):
    step = batch.step(np.full(3, 1, np.int32))
    assert np.all(step.discount == (0. if t % 9 == 0 else 1.))
    assert len(step.episode_returns) == (3 if t % 9 == 0 else 0)
    assert set(step.episode_returns) <= {-1., 1.}
  # Environments of a batch differ, and the same seed repeats them.
  columns = np.argmax(batch.reset(1)[:, 0], axis=-1)
  np.testing.assert_array_equal(np.argmax(batch.reset(1)[:, 0], -1), columns)
  many = registry.load('bsuite/catch/0').make_host(40).reset(1)
  assert len(np.unique(np.argmax(many[:, 0], axis=-1))) == 5
  with pytest.raises(ValueError, match="bsuite has no id 'catch/99'; allowed"):
    registry.load('bsuite/catch/99')


def test_environments_of_gymnasium_form_a_batch():
  gymnasium = pytest.importorskip('gymnasium')
  batch = registry.load('gymnasium/CartPole-v1').make_host(2)
  assert batch.observation_spec().shape == (4,)
  first = batch.reset(7)
  np.testing.assert_array_equal(batch.reset(7), first)
  assert not np.array_equal(first[0], first[1])
  returns = []
  for _ in range(60):  # A constant push ends episodes within 8 to 11 steps.
    step = batch.step(np.ones(2, np.int32))
    assert len(step.episode_returns) == np.sum(step.discount == 0.)
    returns += step.episode_returns
  assert returns and all(8. <= r <= 11. for r in returns)
  batch.close()
  with pytest.raises(ValueError, match='has actions Box'):
    registry.load('gymnasium/Pendulum-v1').make_host(2)
  with pytest.raises(ValueError, match="gymnasium cannot make 'Nothing-v0'"):
    registry.load('gymnasium/Nothing-v0').make_host(2)
  frozen = registry.load('gymnasium/FrozenLake-v1').make_host(2)
  assert isinstance(frozen.observation_spec(), specs.DiscreteArray)
  assert frozen.reset(0).dtype == np.int32
  assert host_batch.is_gymnasium(gymnasium.make('CartPole-v1'))


def dict_gymnasium():
  import gymnasium
  from gymnasium import spaces

  class Env(gymnasium.Env):
    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict({'a': spaces.Discrete(2)})

  return Env()


def test_dictionary_observations_of_gymnasium_are_refused():
  pytest.importorskip('gymnasium')
  with pytest.raises(ValueError, match='observes a Dict; allowed: Box'):
    registry.load(f'{THIS}:dict_gymnasium').make_host(1)


def wrong_shape(seed=0):
  return Countdown(seed, observation=specs.Array((3,), np.float32))


def test_observations_unlike_their_specification_are_refused():
  batch = registry.load(f'{THIS}:wrong_shape').make_host(1)
  with pytest.raises(ValueError, match=r'shape \(2,\); its specification says '
                     r'\(3,\)'):
    batch.reset(0)
