"""The compiled loop: its training data, determinism and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core import observation_networks
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import suite
from lpg_distributed.meta_testing import compiled_loop
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib

T, B = 7, 3
RULE = config_lib.RuleConfig(num_predictions=4, embedding_size=3, lstm_size=3)


def make_loop(environment, rule, settings, num_envs=B):
  spec = environment.observation_spec()
  return compiled_loop.make_loop(
      environment, lambda n: observation_networks.make_network(spec, n),
      settings, registry.make(rule, RULE), num_envs)


def hyper(num, settings):
  return jax.tree_util.tree_map(
      lambda x: jnp.full(num, x), settings.hyper())


class Recorder:
  """A chain whose observations record all steps, in order."""

  def __init__(self):
    self._chain = suite.load('chain_short')
    self.log = []

  def __getattr__(self, name):
    return getattr(self._chain, name)

  def step(self, params, state, action, key):
    state, timestep = self._chain.step(params, state, action, key)
    jax.debug.callback(lambda *x: self.log.append(x), action, *timestep,
                       ordered=False)
    return state, timestep


def test_the_loop_learns_from_its_own_trajectories():
  """Replays the environment's own log through `learn`, one environment."""
  settings = settings_lib.AgentSettings(trajectory_steps=T, learning_rate=0.01,
                                        max_abs_reward=0.)
  eta = rule_vector.init(RULE, jax.random.PRNGKey(1))
  environment = Recorder()
  loop = make_loop(environment, 'lpg', settings, num_envs=1)
  one = settings.hyper()
  state = loop.init(jax.random.PRNGKey(0))
  first = np.asarray(state.observation)
  new, window = jax.jit(loop.advance, static_argnums=3)(eta, one, state, 2)
  jax.block_until_ready(new)
  jax.effects_barrier()
  assert len(environment.log) == 2 * T
  action, later, reward, discount = (
      np.stack(x) for x in zip(*environment.log))
  observation = np.concatenate([first, later])[:, None]
  spec = environment.observation_spec()
  learner = learner_lib.make_learner(
      lambda n: observation_networks.make_network(spec, n), 2, settings,
      registry.make('lpg', RULE))
  agent, metrics = state.agent, []
  for k in range(2):
    part = slice(k * T, (k + 1) * T)
    trajectory = types.Trajectory(
        observation[k * T:(k + 1) * T + 1],
        *(x[part, None] for x in (action, reward, discount)))
    agent, values = learner.learn(eta, one, agent, base.Experience(
        trajectory, learner.evaluate(agent.theta, trajectory.observation)))
    metrics.append(values)
  jax.tree_util.tree_map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
      new.agent.theta, agent.theta)
  for name, value in window.metrics.items():
    np.testing.assert_allclose(
        value, np.mean([m[name] for m in metrics]), rtol=1e-3, atol=1e-5)
  ended = discount == 0.
  assert window.episodes == ended.sum()
  whole = np.cumsum(reward)[np.nonzero(ended)[0][-1]] if ended.any() else 0.
  np.testing.assert_allclose(window.return_sum, whole, atol=1e-5)
  assert new.updates == 2


def test_the_same_seed_gives_the_same_bits():
  settings = settings_lib.AgentSettings(trajectory_steps=T)
  eta = rule_vector.init(RULE, jax.random.PRNGKey(1))
  loop = make_loop(suite.load('chain_short'), 'lpg', settings)
  init = jax.jit(jax.vmap(loop.init))
  advance = jax.jit(jax.vmap(lambda h, s: loop.advance(eta, h, s, 3)))

  def run(seeds):
    keys = jnp.stack([jax.random.PRNGKey(s) for s in seeds])
    state = init(keys)
    for _ in range(2):
      state, _ = advance(hyper(2, settings), state)
    return jax.tree_util.tree_map(np.asarray, state.agent.theta)

  first = run([0, 1])
  jax.tree_util.tree_map(np.testing.assert_array_equal, first, run([0, 1]))
  other = run([0, 2])
  leaf = lambda tree: jax.tree_util.tree_leaves(tree)[0]
  np.testing.assert_array_equal(leaf(first)[0], leaf(other)[0])
  assert not np.array_equal(leaf(first)[1], leaf(other)[1])


def test_agents_of_one_program_have_their_own_learning_rates():
  """A learning rate of 0 changes nothing."""
  settings = settings_lib.AgentSettings(trajectory_steps=T)
  loop = make_loop(suite.load('chain_short'), 'a2c', settings)
  both = hyper(2, settings)._replace(learning_rate=jnp.array([0., 0.01]))
  keys = jnp.stack([jax.random.PRNGKey(0)] * 2)
  state = jax.vmap(loop.init)(keys)
  new, _ = jax.jit(jax.vmap(lambda h, s: loop.advance((), h, s, 1)))(
      both, state)
  for old, x in zip(jax.tree_util.tree_leaves(state.agent.theta),
                    jax.tree_util.tree_leaves(new.agent.theta)):
    np.testing.assert_array_equal(x[0], old[0])
  moved = jax.tree_util.tree_map(lambda x, y: np.abs(x[1] - y[1]).max(),
                                 state.agent.theta, new.agent.theta)
  assert max(jax.tree_util.tree_leaves(moved)) > 1e-3


def test_masked_actions_are_refused():
  with pytest.raises(ValueError, match='tabular_dense masks some of its '
                     'actions; allowed: '):
    compiled_loop.check(suite.load('tabular_dense'))
  compiled_loop.check(suite.load('chain_short'))


def test_networks_follow_from_the_observation():
  """Only pixels are scaled."""
  from dm_env import specs
  net = observation_networks
  frames = specs.BoundedArray((4, 84, 84), np.uint8, 0, 255)
  assert net.kind(frames) == 'frames'
  assert net.kind(specs.BoundedArray((10, 10, 4), bool, 0, 1)) == 'planes'
  assert net.kind(specs.DiscreteArray(5)) == 'index'
  assert net.kind(specs.Array((10, 5), np.float32)) == 'vector'
  with pytest.raises(ValueError, match=r'shape \(64, 64, 3\); allowed'):
    net.kind(specs.BoundedArray((64, 64, 3), np.uint8, 0, 255))
  key = jax.random.PRNGKey(0)
  floats = net.make_network(specs.Array((3,), np.float32), 2)
  x = np.array([[0, 100, 200]], np.uint8)
  for maximum, scale in ((255, 255.), (200, 1.)):
    integers = net.make_network(
        specs.BoundedArray((3,), np.uint8, 0, maximum), 2)
    np.testing.assert_allclose(
        integers.apply(integers.init(key), x),
        floats.apply(floats.init(key), x / np.float32(scale)), rtol=1e-5)
  index = net.make_network(specs.DiscreteArray(3), 2)
  plain = agent_networks.make_network(
      net.INDEX, specs.BoundedArray((3,), np.float32, 0., 1.), 2)
  theta = index.init(key)
  np.testing.assert_allclose(
      index.apply(theta, np.array([[2, 0]])),
      plain.apply(theta, np.eye(3, dtype=np.float32)[[[2, 0]]]), rtol=1e-5)
