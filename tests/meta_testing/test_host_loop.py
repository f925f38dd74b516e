"""The loop on the host: training data, groups, resuming, stopping."""

import functools
import threading
import time

from dm_env import specs
import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import host
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib

FEATURES, A, M, T = 3, 2, 4, 4
SETTINGS = settings_lib.AgentSettings(
    optimiser='sgd', learning_rate=1., kl_cost=0.7, trajectory_steps=T)
HYPER = SETTINGS.hyper()


def rule_config(name='lpg'):
  return config_lib.RuleConfig(num_predictions=M, embedding_size=3,
                               lstm_size=3, kind=name)


def make_linear(num_outputs):
  return agent_networks.Network(
      init=lambda key: jax.random.normal(key, (FEATURES, num_outputs)),
      apply=lambda w, x: x @ w)


@functools.lru_cache(None)
def make_learner(name='lpg'):
  return learner_lib.make_learner(
      make_linear, A, SETTINGS, registry.make(name, rule_config()))


@functools.lru_cache(None)
def make_eta(name='lpg'):
  if not registry.RULES[name].learned:
    return ()
  return rule_vector.init(rule_config(name), jax.random.PRNGKey(3))


@pytest.fixture(scope='module', autouse=True)
def _clear_caches():
  yield
  make_learner.cache_clear()
  make_eta.cache_clear()


class Corridor:
  """Rewards action 1 by 3; episodes differ in length."""
  frames_per_step = 1

  def __init__(self, first=0, num_envs=3, pause_s=0., fail_at=-1):
    self.num_envs, self.ids = num_envs, first + np.arange(num_envs)
    self.pause_s, self.fail_at, self.seeds = pause_s, fail_at, []

  def observation_spec(self):
    return specs.BoundedArray((FEATURES,), np.float32, -1., 1.)

  def action_spec(self):
    return specs.DiscreteArray(A)

  def _observe(self):
    return np.stack([np.cos(self.time), np.sin(self.time + self.ids),
                     np.ones(self.num_envs)], axis=1).astype(np.float32)

  def reset(self, seed):
    self.seeds.append(seed)
    self.time, self.returns = np.zeros((2, self.num_envs))
    self.log = [(self._observe(), None, None, None)]
    return self._observe()

  def step(self, actions):
    time.sleep(self.pause_s)
    if len(self.log) == self.fail_at:
      raise OSError('it is gone')
    reward = 3. * actions.astype(np.float32)
    self.time += 1
    self.returns += reward
    ended = self.time >= 3 + self.ids
    episode_returns = tuple(self.returns[ended].tolist())
    self.time[ended] = self.returns[ended] = 0.
    discount = 1. - ended.astype(np.float32)
    self.log.append((self._observe(), actions.copy(), reward, discount))
    return host.HostStep(self._observe(), reward, discount, episode_returns)


def train(environments, env_steps, seed=1, learner=None, **kwargs):
  return list(host_loop.train(environments, learner or make_learner(),
                              SETTINGS, make_eta(), seed, env_steps,
                              **kwargs))


def columns(log, k):
  """Observations and the rest of the k-th trajectory in a log."""
  rows = log[k * T:(k + 1) * T + 1]
  return (np.stack([row[0] for row in rows]),
          *(np.stack([row[i] for row in rows[1:]]) for i in (1, 2, 3)))


@pytest.mark.parametrize('sizes', [(3,), (2, 1)])
def test_the_loop_learns_from_its_own_trajectories(sizes):
  """Replays the environments' own log through `learn`."""
  learner, num_envs = make_learner(), sum(sizes)
  environments = [Corridor(sum(sizes[:i]), size)
                  for i, size in enumerate(sizes)]
  progress = train(environments, 3 * T * num_envs - 1)
  assert progress[0].env_steps == 0
  assert progress[-1].env_steps == 3 * T * num_envs
  updates = [p for p in progress if p.metrics is not None]
  assert len(updates) == 3
  state = progress[0].state
  for k, update in enumerate(updates):
    observation, action, reward, discount = (
        np.concatenate(xs, axis=1)
        for xs in zip(*(columns(e.log, k) for e in environments)))
    output = learner.evaluate(state.theta, observation)
    experience = base.Experience(types.Trajectory(
        observation, action, reward, discount), output)
    state, metrics = learner.learn(make_eta(), HYPER, state, experience)
    np.testing.assert_allclose(update.state.theta, state.theta, rtol=1e-4,
                               atol=1e-5)
    for name, value in metrics.items():
      np.testing.assert_allclose(update.metrics[name], value, rtol=1e-3,
                                 atol=1e-5, err_msg=name)
    np.testing.assert_allclose(update.metrics['clipped_reward'],
                               np.mean(np.minimum(reward, 1.)), rtol=1e-5)
  returns = [r for p in progress for r in p.episode_returns]
  discounts = np.concatenate([np.stack([row[3] for row in e.log[1:]])
                              for e in environments], axis=1)
  assert len(returns) == np.sum(discounts == 0.) and max(returns) > 1.


def test_actions_are_samples_of_the_policy():
  """Inverse CDF of a uniform that differs between steps and environments."""
  learner = make_learner()
  theta = learner.init(jax.random.PRNGKey(0)).theta
  observation = np.ones((4000, FEATURES), np.float32)
  uniform = np.random.default_rng(0).random(4000, np.float32)
  action, kept = learner.act_and_keep(theta, observation, uniform)
  logits = np.asarray(learner.split(kept.rows).logits[0], np.float64)
  p = 1. / (1. + np.exp(logits[0] - logits[1]))
  np.testing.assert_allclose(kept.rows[0], observation[0] @ theta, rtol=1e-4)
  assert abs(np.mean(action) - p) < 5 * np.sqrt(p * (1 - p) / 4000)


def test_the_same_seed_gives_the_same_training_in_any_groups():
  runs = [[Corridor(0, 3)], [Corridor(0, 3)],
          [Corridor(0, 1), Corridor(1, 1), Corridor(2, 1)]]
  ends = [train(environments, 40)[-1] for environments in runs]
  np.testing.assert_array_equal(ends[0].state.theta, ends[1].state.theta)
  np.testing.assert_allclose(ends[0].state.theta, ends[2].state.theta,
                             rtol=1e-4, atol=1e-5)
  for e, lone in enumerate(runs[2]):  # Actions are equal.
    np.testing.assert_array_equal([row[1][e] for row in runs[0][0].log[1:]],
                                  [row[1][0] for row in lone.log[1:]])
  other = train([Corridor(0, 3)], 40, seed=2)[-1]
  assert np.any(other.state.theta != ends[0].state.theta)


def test_returns_come_in_the_order_of_steps():
  groups = [Corridor(0, 1), Corridor(1, 1)]  # Episodes of 3 and of 4 steps.
  progress = train(groups, 2 * 12)
  ended = []
  for t in range(1, 13):
    for group in groups:
      ended += [None] * (group.log[t][3] == 0.).sum()
  returns = [r for p in progress for r in p.episode_returns]
  assert len(returns) == len(ended) == 7
  # By hand: of each episode the number of 1s among its actions, times 3.
  chosen = [np.concatenate([row[1] for row in group.log[1:]])
            for group in groups]
  expected = {(t, g): 3. * chosen[g][t - n:t].sum()
              for g, n in enumerate((3, 4)) for t in range(n, 13, n)}
  assert returns == [expected[key] for key in sorted(expected)]


def test_training_resumes_from_a_snapshot():
  """The state is restored; environments start again with another seed."""
  first = train(Corridor(), 24)[-1]
  environment = Corridor()
  snapshot = host_loop.Snapshot(first.state, first.env_steps)
  progress = train(environment, 48, snapshot=snapshot)
  assert progress[0].env_steps == 24 and progress[-1].env_steps == 48
  np.testing.assert_array_equal(progress[0].state.theta, first.state.theta)
  assert np.any(progress[-1].state.theta != first.state.theta)
  assert environment.seeds[0] not in (1, 2)
  again = Corridor()
  train(again, 48, snapshot=snapshot)
  assert again.seeds == environment.seeds
  later = Corridor()
  train(later, 60, snapshot=snapshot._replace(env_steps=48))
  assert later.seeds != environment.seeds
  assert train(Corridor(), 24, snapshot=snapshot)[-1].env_steps == 24


def test_training_can_be_closed_within_a_trajectory():
  group = Corridor(pause_s=0.05)
  training = host_loop.train(group, make_learner(), SETTINGS, make_eta(), 1,
                             10 ** 6)
  while next(training).env_steps < 6 * T:  # Heartbeats within trajectories.
    pass
  before = threading.active_count()
  begin = time.monotonic()
  training.close()
  assert time.monotonic() - begin < 20.  # The whole training takes hours.
  assert threading.active_count() < before


def test_an_error_of_an_environment_is_raised():
  with pytest.raises(OSError, match='it is gone'):
    train([Corridor(0, 1), Corridor(1, 1, fail_at=6)], 10 ** 6)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.pinned) if name == 'lpg_vector' else
    name for name in registry.RULES if name != 'ppo'])
def test_gradients_of_parts_add_up_to_the_whole(name):
  """The sum gives the update of `learn`, for rules with one per trajectory."""
  learner, eta = make_learner(name), make_eta(name)
  rng = np.random.default_rng(0)
  state = learner.init(jax.random.PRNGKey(0))
  observation = rng.normal(size=(T + 1, 3, FEATURES)).astype(np.float32)
  outs = [learner.act_and_keep(state.theta, o, rng.random(3, np.float32))
          for o in observation]
  action = np.stack([out[0] for out in outs[:-1]])
  rows = np.stack([out[1].rows for out in outs])
  reward = rng.normal(size=(T, 3)).astype(np.float32)
  discount = np.float32(rng.random((T, 3)) < 0.7)
  trajectory = types.Trajectory(observation, action, reward, discount)
  experience = base.Experience(trajectory, learner.split(rows))
  expected, _ = learner.learn(eta, HYPER, state, experience)
  targets, _ = learner.compute_targets(eta, HYPER, experience._replace(
      trajectory=trajectory._replace(observation=None)))
  for size in (1, 2, T):
    parts = [learner_lib.Part(
        observation[i:i + size], action[i:i + size],
        jax.tree_util.tree_map(lambda x, i=i: x[i:i + size], targets),
        tuple(out[1] for out in outs[i:i + size]))
        for i in range(0, T, size)]
    gradients = [learner.gradient(HYPER, state.theta, part) for part in parts]
    new = learner.update(HYPER, state, gradients, np.float32(T * 3))
    np.testing.assert_allclose(new.theta, expected.theta, rtol=1e-4,
                               atol=1e-5)
  assert np.abs(expected.theta - state.theta).max() > 1e-3


@pytest.mark.parametrize('num_steps, num_envs, expected', [
    (20, 30, 2), (20, 15, 5), (20, 8, 10), (20, 4, 20), (20, 80, 1),
    (20, 500, 1), (7, 12, 1), (7, 11, 7), (1, 1, 1)])
def test_parts_have_steps_that_divide_the_trajectory(
    num_steps, num_envs, expected):
  assert host_loop.part_steps(num_steps, num_envs) == expected
