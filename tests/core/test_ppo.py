"""PPO's loss by hand, its advantages, and A2C as a special case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import light_imports
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib
from tests.core import rule_testing

rlax = light_imports.import_rlax()
FEATURES, A, T, B = 3, 4, 5, 6
PPO = registry.make('ppo')


def policy_loss(new_logits, advantage):
  """The loss of one step under a behaviour of two equal actions."""
  hyper = settings_lib.AgentSettings(
      entropy_cost=0., value_cost=0., clip_range=0.2).hyper()
  output = types.AgentOutput(
      new_logits.reshape(1, 1, 2), value=jnp.ones((1, 1)))
  targets = base.Targets(jnp.full((1, 1), advantage), value=jnp.zeros((1, 1)),
                         behaviour_log_pi=jnp.full((1, 1), np.log(0.5)))
  return PPO.loss(output, jnp.zeros((1, 1), jnp.int32), targets, hyper)[0, 0]


@pytest.mark.parametrize('probability, advantage, loss, clipped', [
    (0.55, 2., -1.1 * 2., False),  # within the range
    (0.45, -2., 0.9 * 2., False),
    (0.75, 2., -1.2 * 2., True),  # more probable, and it was good
    (0.75, -2., 1.5 * 2., False),  # more probable, though it was bad
    (0.25, 2., -0.5 * 2., False),  # less probable, though it was good
    (0.25, -2., 0.8 * 2., True),  # less probable, and it was bad
])
def test_the_surrogate_loss_by_hand(probability, advantage, loss, clipped):
  logits = jnp.log(jnp.array([probability, 1. - probability]))
  found, gradient = jax.value_and_grad(policy_loss)(logits, advantage)
  np.testing.assert_allclose(found, loss, rtol=1e-5)
  # d pi / d logit of the action is pi * (1 - pi); the ratio is 2 * pi.
  slope = 0. if clipped else (
      -advantage * 2. * probability * (1. - probability))
  np.testing.assert_allclose(gradient, [slope, -slope], rtol=1e-4, atol=1e-7)


def test_value_and_entropy_are_those_of_a2c():
  """Without an advantage only they are left."""
  experience, hyper = rule_testing.two_steps()
  experience = jax.tree_util.tree_map(jnp.float32, experience)
  output = jax.tree_util.tree_map(lambda x: x[:-1], experience.output)
  action = experience.trajectory.action.astype(jnp.int32)
  targets = base.Targets(jnp.zeros((2, 1)), value=jnp.array([[4.], [9.]]),
                         behaviour_log_pi=jnp.zeros((2, 1)))
  loss = PPO.loss(output, action, targets, hyper)
  # 0.5 * 0.5 * (V - target)^2 - 0.5 * log 2.
  np.testing.assert_allclose(loss, np.array([[0.25], [4.]]) - 0.5 * np.log(2.),
                             rtol=1e-5)


def test_advantages_are_those_of_rlax():
  rng = np.random.default_rng(0)
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  trajectory = types.Trajectory(
      None, rng.integers(0, A, (T, B), np.int32), numbers(T, B),
      np.float32(rng.random((T, B)) < 0.7))
  output = types.AgentOutput(numbers(T + 1, B, A), value=numbers(T + 1, B))
  hyper = settings_lib.AgentSettings(gamma=0.9, td_lambda=0.8).hyper()
  targets, _ = PPO.compute_targets(
      (), base.Experience(trajectory, output), hyper)
  for b in range(B):
    expected = rlax.truncated_generalized_advantage_estimation(
        trajectory.reward[:, b], 0.9 * trajectory.discount_t[:, b], 0.8,
        output.value[:, b])
    np.testing.assert_allclose(targets.pi_hat[:, b], expected, rtol=1e-4,
                               atol=1e-5)
  np.testing.assert_allclose(
      targets.behaviour_log_pi,
      np.take_along_axis(np.asarray(jax.nn.log_softmax(output.logits[:-1])),
                         trajectory.action[..., None], -1)[..., 0], rtol=1e-5)


def test_advantages_of_a_minibatch_are_normalised():
  advantage = np.random.default_rng(0).normal(3., 5., (T, B))
  found = PPO.minibatch_targets(base.Targets(jnp.float32(advantage))).pi_hat
  np.testing.assert_allclose(
      found, (advantage - advantage.mean()) / advantage.std(), rtol=1e-4,
      atol=1e-5)
  equal = PPO.minibatch_targets(base.Targets(jnp.full((T, B), 2.))).pi_hat
  np.testing.assert_array_equal(equal, np.zeros((T, B)))


def make_linear(num_outputs):
  return agent_networks.Network(
      init=lambda key: jax.random.normal(key, (FEATURES, num_outputs)),
      apply=lambda w, x: x @ w)


def test_one_update_without_normalisation_is_that_of_a2c():
  """All ratios are 1 then."""
  settings = settings_lib.AgentSettings(
      optimiser='sgd', learning_rate=1., passes=1, minibatches=1)
  rng = np.random.default_rng(0)
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  trajectory = types.Trajectory(
      numbers(T + 1, B, FEATURES), rng.integers(0, A, (T, B), np.int32),
      numbers(T, B), np.float32(rng.random((T, B)) < 0.7))
  new = {}
  for name, rule in (('a2c', registry.make('a2c')),
                     ('raw', PPO._replace(minibatch_targets=None)),
                     ('ppo', PPO)):
    learner = learner_lib.make_learner(make_linear, A, settings, rule)
    state = learner.init(jax.random.PRNGKey(0))
    output = learner.evaluate(state.theta, trajectory.observation)
    new[name] = learner.learn(
        (), settings.hyper(), state, base.Experience(trajectory, output),
        jax.random.PRNGKey(1))[0].theta
  np.testing.assert_allclose(new['raw'], new['a2c'], rtol=1e-4, atol=1e-5)
  assert np.abs(new['a2c'] - state.theta).max() > 1e-2
  assert np.abs(new['ppo'] - new['a2c']).max() > 1e-2


def test_it_cannot_be_meta_trained():
  assert 'ppo' not in registry.learned()
