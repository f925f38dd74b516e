"""Rules that see the age and normalised rewards, in both loops."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import observation_networks
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import suite
from lpg_distributed.meta_testing import agent_checkpoint
from lpg_distributed.meta_testing import compiled_loop
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from lpg_distributed.meta_testing import settings as settings_lib
from lpg_distributed.meta_testing import summary
from lpg_distributed.store import eta_file
from tests.core import test_agent_life
from tests.meta_testing import session_testing
from tests.meta_testing import test_compiled_loop
from tests.meta_testing import test_host_loop

T = test_host_loop.T
RULE = dataclasses.replace(test_host_loop.rule_config(), sees_age=True,
                           reward_input='normalised')
SETTINGS = dataclasses.replace(test_host_loop.SETTINGS, reward_scale=0.5,
                               max_abs_reward=1.2)
UPDATES = 100  # of an agent in the jobs below


def make_eta():
  return jax.tree_util.tree_map(
      lambda x: 2. * x, rule_vector.init(RULE, jax.random.PRNGKey(3)))


def replay(learner, state, trajectories, lifetime):
  """Learns from given trajectories; returns the states after each."""
  states, hyper = [], SETTINGS.hyper()
  for done, trajectory in enumerate(trajectories):
    output = learner.evaluate(state.theta, trajectory.observation)
    state, life = learner.observe(state, trajectory.reward,
                                  agent_life.Age(done, lifetime))
    np.testing.assert_allclose(life.relative_age, done / lifetime, rtol=1e-6)
    np.testing.assert_allclose(life.log_lifetime, np.log(lifetime), rtol=1e-6)
    state, _ = learner.learn(make_eta(), hyper, state, base.Experience(
        trajectory, output, life))
    states.append(state)
  return states


def assert_close(one, other):
  jax.tree_util.tree_map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
      one, other)


@pytest.mark.parametrize('sizes', [
    (3,), pytest.param((2, 1), marks=pytest.mark.pinned)])
def test_the_loop_on_the_host_gives_the_rule_what_it_sees(sizes):
  """Replays the environments' own log; see the test of the same in LPG."""
  learner = learner_lib.make_learner(
      test_host_loop.make_linear, test_host_loop.A, SETTINGS,
      registry.make_learned(RULE))
  environments = [test_host_loop.Corridor(sum(sizes[:i]), size)
                  for i, size in enumerate(sizes)]
  progress = list(host_loop.train(environments, learner, SETTINGS, make_eta(),
                                  1, 3 * T * 3 - 1))
  updates = [p for p in progress if p.metrics is not None]
  assert len(updates) == 3
  trajectories = [types.Trajectory(*(
      np.concatenate(xs, axis=1) for xs in zip(*(
          test_host_loop.columns(e.log, k) for e in environments))))
                  for k in range(3)]
  states = replay(learner, progress[0].state, trajectories, 3)
  for update, state in zip(updates, states):
    assert_close(update.state, state)
  # By hand: of scaled and clipped rewards, 3 * 0.5, at most 1.2.
  square = 0.
  for k, trajectory in enumerate(trajectories):
    square = 0.99 * square + 0.01 * np.mean(
        np.minimum(0.5 * trajectory.reward, 1.2) ** 2)
    found = updates[k].state.reward_square
    assert found.count == k + 1
    np.testing.assert_allclose(found.mean, square, rtol=1e-5)
  # It goes on from a snapshot with the ages and the rewards that it had.
  snapshot = host_loop.Snapshot(updates[1].state, updates[1].env_steps)
  later = list(host_loop.train(
      [test_host_loop.Corridor()], learner, SETTINGS, make_eta(), 1,
      3 * T * 3 - 1, snapshot))
  assert later[-1].state.reward_square.count == 3


def test_the_compiled_loop_gives_the_rule_what_it_sees():
  environment = test_compiled_loop.Recorder()
  spec = environment.observation_spec()
  make_network = lambda n: observation_networks.make_network(spec, n)
  rule = registry.make_learned(RULE)
  loop = compiled_loop.make_loop(environment, make_network, SETTINGS, rule, 1,
                                 lifetime=5)
  state = loop.init(jax.random.PRNGKey(0))
  first = np.asarray(state.observation)
  new, _ = jax.jit(loop.advance, static_argnums=3)(
      make_eta(), SETTINGS.hyper(), state, 3)
  jax.block_until_ready(new)
  jax.effects_barrier()
  action, later, reward, discount = (
      np.stack(x) for x in zip(*environment.log))
  observation = np.concatenate([first, later])[:, None]
  parts = [slice(k * T, (k + 1) * T) for k in range(3)]
  trajectories = [types.Trajectory(
      observation[part.start:part.stop + 1],
      *(x[part, None] for x in (action, reward, discount))) for part in parts]
  learner = learner_lib.make_learner(make_network, 2, SETTINGS, rule)
  assert_close(new.agent, replay(learner, state.agent, trajectories, 5)[-1])
  assert new.agent.reward_square.count == 3
  with pytest.raises(ValueError, match='sees the age of its agent; needed'):
    compiled_loop.make_loop(environment, make_network, SETTINGS, rule, 1)


@pytest.fixture(name='eta', scope='module')
def _eta(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('rule') / 'eta.npz')
  eta_file.save(path, test_agent_life.age_alone(RULE), RULE)
  return path


def make_job(environment, eta):
  return jobs.make_job(
      environment, 'lpg', eta=eta, seeds=(0, 1), env_steps=UPDATES * 5 * 2,
      num_envs=2, overrides=['trajectory_steps=5', 'learning_rate=0.01'])


def columns(directory, *names):
  return {seed: [[row[name] for name in names] for row in rows]
          for seed, rows in summary.by_seed(results.read(directory)).items()}


@pytest.mark.parametrize('environment', [
    pytest.param(session_testing.HOST, marks=pytest.mark.pinned),
    session_testing.JITTED])
def test_a_job_gives_ages_of_its_own_length_and_resumes(environment, eta,
                                                        tmp_path):
  """With a rule whose pi_hat depends on the age alone."""
  job, stop = make_job(environment, eta), threading.Event()
  assert job.rule_config == RULE
  whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
  assert session.run(job, whole)
  table = test_agent_life.pi_hat_at(RULE, np.arange(UPDATES), UPDATES) ** 2
  assert np.diff(table).min() > 1e-8
  for rows in columns(whole, 'updates', 'pi_hat_square').values():
    ends, found = np.array(rows).T
    begins = np.concatenate([[0], ends[:-1]])
    np.testing.assert_allclose(found, [
        table[int(a):int(b)].mean() for a, b in zip(begins, ends)], rtol=1e-4)

  def watch(status):
    if status.env_steps >= 500:
      stop.set()

  assert not session.run(job, parts, stop, watch)
  assert session.run(job, parts)
  seen = 'env_steps', 'pi_hat_square'
  assert columns(parts, *seen) == columns(whole, *seen)
  if environment == session_testing.JITTED:  # Bit for bit, with the rewards.
    seen = *seen, 'return', 'policy_entropy', 'clipped_reward'
    assert columns(parts, *seen) == columns(whole, *seen)
    for name in (parts, whole):
      with np.load(agent_checkpoint.load(name).path) as saved:
        leaves = [saved[n] for n in saved.files if n.startswith('leaf')]
      if name == parts:
        first = leaves
    assert len(first) == len(leaves)
    for x, y in zip(first, leaves):
      np.testing.assert_array_equal(x, y)


def test_without_options_nothing_is_kept():
  """So checkpoints of agents have the same parts as before."""
  rule = registry.make('lpg', test_host_loop.rule_config())
  learner = learner_lib.make_learner(test_host_loop.make_linear, 2, SETTINGS,
                                     rule)
  state = learner.init(jax.random.PRNGKey(0))
  after, life = learner.observe(state, np.ones((T, 3), np.float32),
                                agent_life.Age(1, 2))
  assert after.reward_square is None and life == base.UNSEEN
  assert len(jax.tree_util.tree_leaves(after)) == len(
      jax.tree_util.tree_leaves((state.theta, state.opt_state)))
  compiled_loop.make_loop(
      suite.load('chain_short'), lambda n: test_host_loop.make_linear(n),
      SETTINGS, rule, 1)


def test_lifetimes_are_in_updates():
  settings = settings_lib.AgentSettings(trajectory_steps=5)
  assert settings.lifetime(2, 1000) == 100 and settings.lifetime(2, 1001) == 101
  assert settings.lifetime(1, 10 ** 15) == 2 ** 31 - 1


def test_headers_of_other_rules_are_as_before(eta):
  job = make_job(session_testing.HOST, eta)
  assert results.make_header(job, 1)['rule_config'] == {
      **dataclasses.asdict(RULE)}
  plain = dataclasses.replace(job, rule_config=config_lib.RuleConfig())
  header = results.make_header(plain, 1)
  assert set(header['rule_config']) == {
      'num_predictions', 'embedding_size', 'lstm_size', 'kind', 'sees_policy'}
  assert results.make_header(dataclasses.replace(job, rule_config=None), 1)[
      'rule_config'] is None
