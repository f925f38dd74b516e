"""Eqs. (2) and (7) on a table of two states, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_update
from lpg_distributed.core import distributions
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry

# One environment, two steps: s = 0, 1, 0; a = 1, 0; two actions, M = 3.
TRAJECTORY = types.Trajectory(
    observation=jnp.array([[0], [1], [0]]), action=jnp.array([[1], [0]]),
    reward=jnp.array([[1.], [0.]]), discount_t=jnp.array([[1.], [0.]]))
TABLE = jnp.array([[0.2, -0.3, 0.5, 0.0, -0.5],
                   [0.1, 0.4, -1.0, 0.3, 0.2]])
TARGETS = base.Targets(
    pi_hat=jnp.array([[2.], [-1.]]),
    y_hat_logits=jnp.array([[[0.3, 0.1, -0.2]], [[1.0, 0.0, -1.0]]]))
KL_COST = 0.7
HYPER = base.UpdateHyperparameters(
    learning_rate=40., kl_cost=jnp.float32(KL_COST), gamma=0.9,
                   entropy_cost=0., value_cost=0., td_lambda=0.)
RULE = registry.make('lpg', config_lib.RuleConfig(num_predictions=3))


def apply(table):
  rows = table[TRAJECTORY.observation]
  return types.AgentOutput(rows[..., :2], rows[..., 2:])


def softmax(x):
  z = np.exp(x - x.max())
  return z / z.sum()


def hand_gradient():
  """Gradient of -mean_t(log pi * pi_hat - alpha_y * KL(y||y_hat)), two steps.

  d log pi(a|s) / d logits = onehot(a) - pi, and
  d KL(y||q) / d y_logits_j = y_j * (log(y_j / q_j) - KL).
  """
  table = np.asarray(TABLE, np.float64)
  gradient = np.zeros_like(table)
  steps = [(0, 1, 2., [0.3, 0.1, -0.2]), (1, 0, -1., [1., 0., -1.])]
  for state, action, pi_hat, y_hat_logits in steps:
    pi, y = softmax(table[state, :2]), softmax(table[state, 2:])
    q = softmax(np.array(y_hat_logits))
    kl = np.sum(y * np.log(y / q))
    gradient[state, :2] -= (np.eye(2)[action] - pi) * pi_hat / 2
    gradient[state, 2:] += KL_COST * y * (np.log(y / q) - kl) / 2
  return gradient


def gradient_of(table, compute_targets=lambda output: TARGETS):
  return agent_update.agent_gradient(
      RULE, apply, table, compute_targets, TRAJECTORY.action, HYPER, 2)


def test_gradient_by_hand():
  gradient, output, targets = gradient_of(TABLE)
  np.testing.assert_allclose(gradient, hand_gradient(), rtol=1e-5, atol=1e-7)
  assert output.logits.shape == (3, 1, 2) and targets is TARGETS


def test_update_ascends_by_the_learning_rate():
  gradient, _, _ = gradient_of(TABLE)
  sgd = agent_update.make_optimiser('sgd')
  new, _ = sgd.apply(gradient, sgd.init(TABLE), TABLE, jnp.float32(40.))
  np.testing.assert_allclose(new, np.asarray(TABLE) - 40. * hand_gradient(),
                             rtol=1e-5, atol=1e-5)
  # pi_hat = 2 > 0 for action 1 in state 0: it becomes more likely.
  assert softmax(np.asarray(new[0, :2]))[1] > softmax(
      np.asarray(TABLE[0, :2]))[1]


def test_targets_are_constants_of_the_inner_gradient_only():
  """Targets that depend on theta do not change the gradient's value.

  They do change the gradient's derivative, as the meta-gradient needs.
  """
  def compute_dependent_targets(output):
    shift = jnp.sum(output.y_logits[:-1], axis=-1)
    shift = shift - jax.lax.stop_gradient(shift)  # zero, with a slope
    return TARGETS._replace(pi_hat=TARGETS.pi_hat + shift)

  gradient, _, _ = gradient_of(TABLE, compute_dependent_targets)
  np.testing.assert_allclose(gradient, hand_gradient(), rtol=1e-5, atol=1e-7)
  slope = lambda targets: jax.grad(
      lambda t: gradient_of(t, targets)[0][0, 1])(TABLE)
  through = slope(compute_dependent_targets)
  without = slope(lambda output: TARGETS)
  # d gradient[0, 1] / d y_logits of state 0: -(1 - pi(1|0)) / 2 each.
  pi = softmax(np.asarray(TABLE[0, :2], np.float64))
  np.testing.assert_allclose((through - without)[0, 2:], -(1 - pi[1]) / 2,
                             rtol=1e-5)


def test_baseline_of_eq_7():
  """f is subtracted as a constant and regressed on pi_hat."""
  baseline = jnp.array([[0.5], [0.25]])
  output = jax.tree_util.tree_map(lambda x: x[:-1], apply(TABLE))

  def loss(output):
    return jnp.sum(RULE.loss(output, TRAJECTORY.action, TARGETS, HYPER)) / 2

  d_output = jax.grad(loss)(output._replace(baseline=baseline))
  np.testing.assert_allclose(
      d_output.baseline,
      (np.asarray(baseline) - np.asarray(TARGETS.pi_hat)) / 2, rtol=1e-6)
  pi = softmax(np.asarray(TABLE[0, :2], np.float64))
  np.testing.assert_allclose(
      d_output.logits[0, 0], -(np.array([0., 1.]) - pi) * (2. - 0.5) / 2,
      rtol=1e-5)
  plain = jax.grad(loss)(output)
  np.testing.assert_allclose(d_output.y_logits, plain.y_logits, rtol=1e-6)


def test_adam_by_hand_and_twice_differentiable_at_zero():
  adam = agent_update.make_optimiser('adam')
  theta = jnp.array([1., 1.])

  def after_two(scale):
    state, x = adam.init(theta), theta
    for gradient in (jnp.array([3., 0.]), jnp.array([-1., 0.])):
      x, state = adam.apply(scale * gradient, state, x, jnp.float32(0.1))
    return x

  # First step: 0.1 * sign. Second: m = (0.9*0.3 - 0.1) / (1 - 0.81),
  # v = (0.999*0.009 + 0.001) / (1 - 0.998001).
  m, v = (0.9 * 0.3 - 0.1) / 0.19, (0.999 * 0.009 + 0.001) / 0.001999
  np.testing.assert_allclose(after_two(1.),
                             [1. - 0.1 - 0.1 * m / np.sqrt(v), 1.], rtol=1e-5)
  slope = jax.jacobian(after_two)(1.)
  assert np.all(np.isfinite(slope))  # The second weight never moved.


def test_log_probability_and_masks():
  logits = jnp.array([[0.5, -1e9, 1.0]])
  log_pi = distributions.log_probability(logits, jnp.array([2]))
  np.testing.assert_allclose(
      log_pi, 1. - np.log(np.exp(0.5) + np.exp(1.)), rtol=1e-6)
  gradient = jax.grad(lambda x: distributions.log_probability(
      x, jnp.array([2]))[0])(logits)
  assert gradient[0, 1] == 0. and np.all(np.isfinite(gradient))


def test_kl_equals_its_formula_and_is_zero_for_equal_logits():
  p, q = jnp.array([0.2, -1., 3.]), jnp.array([1., 0., 0.])
  a, b = softmax(np.array([0.2, -1., 3.])), softmax(np.array([1., 0., 0.]))
  np.testing.assert_allclose(distributions.kl_divergence(p, q),
                             np.sum(a * np.log(a / b)), rtol=1e-5)
  np.testing.assert_allclose(distributions.kl_divergence(p, p), 0., atol=1e-7)
