"""Several updates from one trajectory, in both loops, with PPO."""

import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import types
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import agent_checkpoint
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import minibatches
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from lpg_distributed.meta_testing import settings as settings_lib
from lpg_distributed.meta_testing import summary
from tests.meta_testing import session_testing
from tests.meta_testing import test_host_loop as host_testing

PPO = registry.make('ppo')
T, A, FEATURES = host_testing.T, host_testing.A, host_testing.FEATURES
B, PASSES, NUM = 5, 3, 2
SETTINGS = settings_lib.AgentSettings(
    optimiser='sgd', learning_rate=0.5, trajectory_steps=T, passes=PASSES,
    minibatches=NUM, clip_range=0.1)


def make_learner(settings=SETTINGS, rule=PPO):
  return learner_lib.make_learner(
      host_testing.make_linear, A, settings, rule)


def make_targets():
  numbers = jnp.arange(T * B, dtype=jnp.float32).reshape(T, B)
  return base.Targets(jnp.square(numbers), value=numbers)


def test_a_pass_has_each_environment_once():
  """Five environments in two minibatches, in another order in each pass."""
  targets = make_targets()
  orders = []
  for key in minibatches.pass_keys(jax.random.PRNGKey(0), 20):
    found = minibatches.divide(PPO, NUM, key, targets)
    assert [len(part.environments) for part in found] == [3, 2]
    for part in found:
      np.testing.assert_array_equal(
          part.targets.value, targets.value[:, part.environments])
      np.testing.assert_allclose(jnp.mean(part.targets.pi_hat), 0., atol=1e-5)
    orders.append(tuple(int(x) for part in found for x in part.environments))
    assert sorted(orders[-1]) == list(range(B))
  assert len(set(orders)) > 10


def test_updates_are_counted():
  assert minibatches.updates_per_trajectory(SETTINGS, PPO) == PASSES * NUM
  assert minibatches.updates_per_trajectory(
      SETTINGS, registry.make('a2c')) == 1


def make_experience(learner, theta):
  rng = np.random.default_rng(0)
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  trajectory = types.Trajectory(
      numbers(T + 1, B, FEATURES), rng.integers(0, A, (T, B), np.int32),
      numbers(T, B), np.float32(rng.random((T, B)) < 0.7))
  return base.Experience(
      trajectory, learner.evaluate(theta, trajectory.observation))


def test_each_minibatch_gives_an_update():
  """One after another, each with the parameters of the one before."""
  learner = make_learner()
  first = learner.init(jax.random.PRNGKey(0))
  experience = make_experience(learner, first.theta)
  trajectory, hyper = experience.trajectory, SETTINGS.hyper()
  key = jax.random.PRNGKey(1)
  new, _ = learner.learn((), hyper, first, experience, key)
  targets, _ = learner.compute_targets((), hyper, experience)
  theta, ratios = first.theta, []
  for pass_key in minibatches.pass_keys(key, PASSES):
    for chosen, part in minibatches.divide(PPO, NUM, pass_key, targets):
      def loss(theta, chosen=chosen, part=part):
        output = learner.evaluate(theta, trajectory.observation[:-1, chosen])
        return jnp.mean(PPO.loss(
            output, trajectory.action[:, chosen], part, hyper))
      theta = theta - 0.5 * jax.grad(loss)(theta)
      output = learner.evaluate(theta, trajectory.observation[:-1])
      ratios.append(np.exp(np.take_along_axis(
          np.asarray(jax.nn.log_softmax(output.logits)),
          trajectory.action[..., None], -1)[..., 0]
                           - targets.behaviour_log_pi))
  np.testing.assert_allclose(new.theta, theta, rtol=1e-4, atol=1e-5)
  assert np.max(np.abs(np.stack(ratios) - 1.)) > 0.1  # Some were clipped.


def test_the_optimiser_sees_all_updates():
  settings = settings_lib.AgentSettings(trajectory_steps=T, passes=PASSES,
                                        minibatches=NUM)
  learner = make_learner(settings)
  state = learner.init(jax.random.PRNGKey(0))
  state, _ = learner.learn((), settings.hyper(), state, make_experience(
      learner, state.theta), jax.random.PRNGKey(1))
  assert state.opt_state.count == PASSES * NUM


@pytest.mark.parametrize('sizes', [
    (3,), pytest.param((2, 1), marks=pytest.mark.pinned)])
def test_the_loop_on_the_host_learns_as_the_compiled_one(sizes):
  """Replays the environments' own log through `learn`."""
  learner, num_envs, seed = make_learner(), sum(sizes), 1
  environments = [host_testing.Corridor(sum(sizes[:i]), size)
                  for i, size in enumerate(sizes)]
  progress = list(host_loop.train(environments, learner, SETTINGS, (), seed,
                                  2 * T * num_envs))
  updates = [p for p in progress if p.metrics is not None]
  assert len(updates) == 2
  state = progress[0].state
  act_key = jax.random.split(jax.random.PRNGKey(seed))[1]
  for k, update in enumerate(updates):
    observation, action, reward, discount = (
        np.concatenate(xs, axis=1) for xs in zip(
            *(host_testing.columns(e.log, k) for e in environments)))
    output = learner.evaluate(state.theta, observation)
    before = state
    state, metrics = learner.learn(
        (), SETTINGS.hyper(), state, base.Experience(types.Trajectory(
            observation, action, reward, discount), output),
        jax.random.fold_in(act_key, k * T))
    np.testing.assert_allclose(update.state.theta, state.theta, rtol=1e-4,
                               atol=1e-5)
    np.testing.assert_allclose(update.metrics['advantage_square'],
                               metrics['advantage_square'], rtol=1e-3)
    assert np.abs(state.theta - before.theta).max() > 1e-2


def make_job(environment):
  return session_testing.make_job(environment, rule='ppo', overrides=[
      'trajectory_steps=5', 'learning_rate=0.01', 'passes=3', 'minibatches=2'])


def rows(directory):
  return [{k: v for k, v in row.items() if k != 'seconds'}
          for row in results.read(str(directory)).rows]


def run_until(env_steps, environment, directory):
  """Stops a job at the given number of steps of its last seed."""
  stop = threading.Event()

  def watch(status):
    if status.seed in (None, 1) and status.env_steps >= env_steps:
      stop.set()

  assert not session.run(make_job(environment), str(directory), stop, watch)


@pytest.mark.parametrize('environment', [
    pytest.param(session_testing.HOST, marks=pytest.mark.pinned),
    session_testing.JITTED])
def test_jobs_repeat_and_resume(environment, tmp_path):
  """In one compiled loop a resumed job gives the same rows as a whole one."""
  names = ('whole', 'again', 'stopped', 'resumed')
  whole, again, stopped, resumed = (str(tmp_path / name) for name in names)
  for path in (whole, again):
    assert session.run(make_job(environment), path)
  assert rows(whole) == rows(again)
  last = {row['seed']: row for row in rows(whole)}
  # 100 trajectories, each of 2 environments and 5 steps.
  assert {row['updates'] for row in last.values()} == {100 * 3 * 2}
  run_until(500, environment, stopped)
  assert 500 <= rows(stopped)[-1]['env_steps'] < 1000
  shutil.copytree(stopped, resumed)
  for path in (stopped, resumed):
    assert session.run(make_job(environment), path)
  assert rows(stopped) == rows(resumed)
  agents = summary.by_seed(results.read(stopped))
  assert agents[1][-1]['updates'] == 100 * 3 * 2
  if environment == session_testing.JITTED:
    assert rows(stopped) == rows(whole)
    with np.load(os.path.join(stopped, agent_checkpoint.FILE)) as x, np.load(
        os.path.join(whole, agent_checkpoint.FILE)) as y:
      for name in set(x.files) - {'header'}:
        np.testing.assert_array_equal(x[name], y[name])
