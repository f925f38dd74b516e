"""Eq. (7) on a small linear network by hand, and the loop around it."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib

FEATURES, A, M = 3, 2, 4
NUM_OUTPUTS = A + M + 1  # policy, predictions, f(s)
RATE, ALPHA_Y = 1., 0.7
T, B = 4, 3


def make_linear(num_outputs):
  assert num_outputs == NUM_OUTPUTS
  return agent_networks.Network(
      init=lambda key: jax.random.normal(key, (FEATURES, num_outputs)),
      apply=lambda w, x: x @ w)


HYPER = settings_lib.AgentSettings(learning_rate=RATE, kl_cost=ALPHA_Y).hyper()


class FixedTargets(NamedTuple):
  """Stands in for eta: the targets that `fixed_rule` returns."""
  pi_hat: np.ndarray
  y_hat_logits: np.ndarray


def fixed_rule(eta, inputs):
  del inputs
  return types.LPGTargets(*eta)


@functools.lru_cache(None)
def make_learner(use_baseline=True, network=fixed_rule, **settings):
  """A learner whose rule returns fixed targets."""
  settings = settings_lib.AgentSettings(
      optimiser='sgd', trajectory_steps=T, use_baseline=use_baseline,
      **settings)
  return learner_lib.make_learner(
      make_linear, A, settings, registry.make(
          'lpg', config_lib.RuleConfig(num_predictions=M), network=network))


@pytest.fixture(scope='module', autouse=True)
def _clear_caches():
  yield
  make_learner.cache_clear()


def make_case(learner, seed=0):
  rng = np.random.default_rng(seed)
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  theta = numbers(FEATURES, NUM_OUTPUTS)
  trajectory = types.Trajectory(
      numbers(T + 1, B, FEATURES), rng.integers(0, A, (T, B), np.int32),
      numbers(T, B), np.float32(rng.random((T, B)) < 0.8))
  experience = base.Experience(
      trajectory, learner.evaluate(theta, trajectory.observation))
  targets = FixedTargets(numbers(T, B), numbers(T, B, M))
  return learner_lib.AgentState(theta, learner.init(
      jax.random.PRNGKey(0)).opt_state), experience, targets


def softmax(x):
  z = np.exp(x - x.max())
  return z / z.sum()


def hand_update(theta, trajectory, targets, use_baseline):
  """Eq. (7) step by step, in float64; Eq. (2) without its f."""
  theta = np.asarray(theta, np.float64)
  ascent = np.zeros_like(theta)
  for t in range(T):
    for b in range(B):
      x = np.asarray(trajectory.observation[t, b], np.float64)
      out = x @ theta
      pi, y, f = softmax(out[:A]), softmax(out[A:-1]), out[-1]
      pi_hat = float(targets.pi_hat[t, b])
      y_hat = softmax(np.asarray(targets.y_hat_logits[t, b], np.float64))
      direction = np.zeros(NUM_OUTPUTS)
      weight = pi_hat - f if use_baseline else pi_hat
      direction[:A] = (np.eye(A)[trajectory.action[t, b]] - pi) * weight
      kl = np.sum(y * np.log(y / y_hat))
      direction[A:-1] = -ALPHA_Y * y * (np.log(y / y_hat) - kl)
      direction[-1] = -(f - pi_hat) if use_baseline else 0.
      ascent += np.outer(x, direction) / (T * B)
  return theta + RATE * ascent


@pytest.mark.parametrize('use_baseline', [True, False])
def test_update_by_hand(use_baseline):
  learner = make_learner(use_baseline)
  state, experience, targets = make_case(learner)
  new, metrics = learner.learn(targets, HYPER, state, experience)
  expected = hand_update(state.theta, experience.trajectory, targets,
                         use_baseline)
  np.testing.assert_allclose(new.theta, expected, rtol=1e-4, atol=1e-5)
  assert np.abs(expected - state.theta).max() > 1e-2
  moved = np.any(new.theta[:, -1] != state.theta[:, -1])
  assert moved == use_baseline
  np.testing.assert_allclose(metrics['pi_hat_square'],
                             np.mean(np.square(targets.pi_hat)), rtol=1e-5)


def test_the_rule_gets_the_inputs_of_the_trajectory():
  """Scaled and clipped rewards, d, gamma, pi(a|s) and y of T + 1 states."""
  recorded = []

  def network(eta, inputs):
    jax.debug.callback(lambda x: recorded.append(x), inputs)
    return fixed_rule(eta, inputs)

  learner = make_learner(network=network, reward_scale=2.,
                         max_abs_reward=0.5)
  state, experience, targets = make_case(learner)
  learner.learn(targets, HYPER._replace(gamma=np.float32(0.9)), state,
                experience)
  jax.effects_barrier()
  (inputs,) = recorded
  trajectory = experience.trajectory
  np.testing.assert_allclose(inputs.reward,
                             np.clip(2. * trajectory.reward, -0.5, 0.5))
  assert np.any(np.abs(trajectory.reward) > 0.25)
  assert np.any(np.abs(trajectory.reward) < 0.25)
  np.testing.assert_array_equal(inputs.discount_t, trajectory.discount_t)
  np.testing.assert_allclose(inputs.gamma, np.full((T, B), 0.9), rtol=1e-6)
  out = np.asarray(trajectory.observation) @ np.asarray(state.theta)
  for t in range(T + 1):
    for b in range(B):
      np.testing.assert_allclose(inputs.y[t, b], softmax(out[t, b, A:-1]),
                                 rtol=1e-4)
      if t < T:
        np.testing.assert_allclose(
            inputs.action_probability[t, b],
            softmax(out[t, b, :A])[trajectory.action[t, b]], rtol=1e-4)


def test_act_samples_from_the_policy_and_keeps_its_outputs():
  learner = make_learner()
  state, experience, _ = make_case(learner)
  row = experience.trajectory.observation[0, 0]
  num = 4000
  observation = np.broadcast_to(row, (num, FEATURES))
  key = jax.random.PRNGKey(0)
  action, output = learner.act(state.theta, observation, key, np.int32(0))
  out = np.asarray(row @ state.theta, np.float64)
  np.testing.assert_allclose(output.logits[0], out[:A], rtol=1e-4)
  np.testing.assert_allclose(output.y_logits[0], out[A:-1], rtol=1e-4)
  np.testing.assert_allclose(output.baseline[0], out[-1], rtol=1e-4)
  p = softmax(out[:A])[1]
  assert abs(np.mean(action) - p) < 5 * np.sqrt(p * (1 - p) / num)
  other, _ = learner.act(state.theta, observation, key, np.int32(1))
  assert np.any(other != action)
