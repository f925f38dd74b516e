"""LPG's network equals a NumPy loop; its fast form equals Haiku's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector

SMALL = config_lib.RuleConfig(num_predictions=5, embedding_size=4, lstm_size=7)


def make_inputs(num_steps, batch, num_predictions, seed=0):
  rng = np.random.default_rng(seed)
  shape = (num_steps, *batch)
  logits = rng.normal(size=(num_steps + 1, *batch, num_predictions))
  return rule_inputs.RuleInput(
      reward=rng.normal(size=shape).astype(np.float32),
      discount_t=(rng.random(shape) > 0.3).astype(np.float32),
      gamma=np.full(shape, 0.99, np.float32),
      action_probability=rng.random(shape).astype(np.float32),
      y=np.asarray(jax.nn.softmax(logits), np.float32))


def sigmoid(x):
  return 1. / (1. + np.exp(-x))


def numpy_rule(eta, inputs, phi=None):
  """Appendix B.1, one step of one environment at a time, in float64."""
  eta = jax.tree_util.tree_map(lambda x: np.asarray(x, np.float64), eta)
  num_steps, batch = inputs.reward.shape

  def embed(y):
    hidden, out = eta['lpg/phi/~/linear_0'], eta['lpg/phi/~/linear_1']
    z = np.maximum(y @ hidden['w'] + hidden['b'], 0.)
    return (z @ out['w'] + out['b'])[0]

  phi = phi or embed
  w, b = eta['lpg/lstm/linear']['w'], eta['lpg/lstm/linear']['b']
  size = b.size // 4
  pi_hat = np.zeros((num_steps, batch))
  y_hat = np.zeros((num_steps, batch, inputs.y.shape[-1]))
  for n in range(batch):
    h, c = np.zeros(size), np.zeros(size)
    for t in reversed(range(num_steps)):
      next_phi = phi(inputs.y[t + 1, n])
      if inputs.discount_t[t, n] == 0.:
        h, c, next_phi = np.zeros(size), np.zeros(size), 0.
      x = np.array([inputs.reward[t, n], inputs.discount_t[t, n],
                    inputs.gamma[t, n], inputs.action_probability[t, n],
                    phi(inputs.y[t, n]), next_phi])
      z = np.concatenate([x, h]) @ w + b
      i, g, f, o = np.split(z, 4)
      c = sigmoid(f + 1.) * c + sigmoid(i) * np.tanh(g)
      h = sigmoid(o) * np.tanh(c)
      pi_hat[t, n] = (h @ eta['lpg/pi_hat']['w'] + eta['lpg/pi_hat']['b'])[0]
      y_hat[t, n] = h @ eta['lpg/y_hat']['w'] + eta['lpg/y_hat']['b']
  return pi_hat, y_hat


def random_eta(config, seed=1):
  """Haiku starts biases at zero; these are not zero, to be tested too."""
  eta = rule_vector.init(config, jax.random.PRNGKey(seed))
  leaves, tree = jax.tree_util.tree_flatten(eta)
  keys = jax.random.split(jax.random.PRNGKey(seed + 1), len(leaves))
  return jax.tree_util.tree_unflatten(tree, [
      leaf + 0.1 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys)])


@pytest.mark.parametrize('form', ['fast', 'reference'])
@pytest.mark.parametrize('jit', [False, True])
def test_forward_equals_a_numpy_loop(form, jit):
  eta, inputs = random_eta(SMALL), make_inputs(6, (3,), 5)
  assert 0 < (inputs.discount_t == 0).sum() < inputs.discount_t.size
  if form == 'fast':
    apply = lpg_network.apply
  else:
    apply = lambda e, x: lpg_network.apply_reference(e, SMALL, x)
  targets = (jax.jit(apply) if jit else apply)(eta, inputs)
  pi_hat, y_hat = numpy_rule(eta, inputs)
  np.testing.assert_allclose(targets.pi_hat, pi_hat, rtol=2e-5, atol=2e-6)
  np.testing.assert_allclose(targets.y_hat_logits, y_hat, rtol=2e-5,
                             atol=2e-6)


def test_gradients_of_both_forms_agree():
  config = config_lib.RuleConfig()
  eta, inputs = random_eta(config), make_inputs(20, (4,), 30)
  rng = np.random.default_rng(3)
  weights = [rng.normal(size=s) for s in ((20, 4), (20, 4, 30))]

  def loss(apply):
    def scalar(eta, y, probability):
      targets = apply(eta, inputs._replace(y=y, action_probability=probability))
      return (jnp.sum(targets.pi_hat * weights[0])
              + jnp.sum(targets.y_hat_logits * weights[1]))
    return jax.value_and_grad(scalar, argnums=(0, 1, 2))

  args = eta, inputs.y, inputs.action_probability
  fast = jax.jit(loss(lpg_network.apply))(*args)
  plain = jax.jit(loss(
      lambda e, x: lpg_network.apply_reference(e, config, x)))(*args)
  for one, other in zip(*map(jax.tree_util.tree_leaves, (fast, plain))):
    scale = np.max(np.abs(other))
    assert scale > 0
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-6 * scale)


def test_batch_axes_are_independent_rows():
  eta, inputs = random_eta(SMALL), make_inputs(5, (2, 3), 5)
  whole = lpg_network.apply(eta, inputs)
  one = lpg_network.apply(eta, jax.tree_util.tree_map(
      lambda x: x[:, 1, 2:3], inputs))
  np.testing.assert_allclose(whole.pi_hat[:, 1, 2:3], one.pi_hat, rtol=1e-5,
                             atol=1e-6)
  np.testing.assert_allclose(whole.y_hat_logits[:, 1, 2:3], one.y_hat_logits,
                             rtol=1e-5, atol=1e-6)


def test_targets_do_not_depend_on_the_next_episode():
  eta, inputs = random_eta(SMALL), make_inputs(6, (1,), 5)
  discount = np.ones((6, 1), np.float32)
  discount[2] = 0.
  inputs = inputs._replace(discount_t=discount)
  later = jax.tree_util.tree_map(np.copy, inputs)
  later.reward[3:] += 1.
  later.y[3:] = np.roll(later.y[3:], 1, axis=-1)
  before, after = (lpg_network.apply(eta, x) for x in (inputs, later))
  np.testing.assert_array_equal(before.pi_hat[:3], after.pi_hat[:3])
  assert np.all(before.pi_hat[3:] != after.pi_hat[3:])


@pytest.mark.parametrize('field', ['reward', 'gamma', 'action_probability'])
def test_every_input_changes_pi_hat(field):
  eta, inputs = random_eta(SMALL), make_inputs(4, (2,), 5)
  changed = inputs._replace(**{field: getattr(inputs, field) * 0.5})
  assert np.all(lpg_network.apply(eta, inputs).pi_hat
                != lpg_network.apply(eta, changed).pi_hat)


def test_hold_phi_replaces_phi_by_the_constant():
  """The targets are those of a loop whose phi(y) is the constant.

  Phi is in two inputs: phi(y) and discount times phi of the next y.
  """
  eta, inputs = random_eta(SMALL), make_inputs(6, (3,), 5)
  held = lpg_network.hold_phi(eta, 0.7)
  np.testing.assert_allclose(lpg_network.embed(held, inputs.y), 0.7)
  assert np.std(lpg_network.embed(eta, inputs.y)) > 0.01
  targets = lpg_network.apply(held, inputs)
  pi_hat, y_hat = numpy_rule(eta, inputs, phi=lambda y: 0.7)
  np.testing.assert_allclose(targets.pi_hat, pi_hat, rtol=2e-5, atol=2e-6)
  np.testing.assert_allclose(targets.y_hat_logits, y_hat, rtol=2e-5,
                             atol=2e-6)
  other_y = inputs._replace(y=inputs.y[..., ::-1])
  np.testing.assert_array_equal(lpg_network.apply(held, other_y).pi_hat,
                                targets.pi_hat)


def test_sees_policy_false_hides_the_action_probability():
  blind = dataclasses.replace(SMALL, sees_policy=False)
  vector = rule_vector.ravel(random_eta(SMALL))
  inputs = jax.tree_util.tree_map(jnp.asarray, make_inputs(6, (4,), 5))
  zero = inputs._replace(
      action_probability=jnp.zeros_like(inputs.action_probability))
  apply = lambda config, inputs: lpg_network.apply(
      rule_vector.unravel(config, vector), inputs)
  jax.tree_util.tree_map(np.testing.assert_array_equal, apply(blind, inputs),
                         apply(SMALL, zero))
  assert np.any(apply(SMALL, inputs).pi_hat != apply(SMALL, zero).pi_hat)
  # The weights of the hidden input have no gradient.
  slope = jax.grad(lambda vector: jnp.sum(lpg_network.apply(
      rule_vector.unravel(blind, vector), inputs).pi_hat))(vector)
  row = rule_vector.unravel(SMALL, slope)['lpg/lstm/linear']['w'][3]
  np.testing.assert_array_equal(row, np.zeros(4 * SMALL.lstm_size))


def test_size_at_the_papers_shape():
  # phi: 30*16+16 + 16+1; LSTM: (6+256)*1024+1024; heads: 256*31+31.
  expected = 30 * 16 + 16 + 17 + 262 * 1024 + 1024 + 256 * 31 + 31
  assert rule_vector.size(config_lib.RuleConfig()) == expected == 277_792


def test_vector_round_trip():
  eta = random_eta(SMALL)
  vector = rule_vector.ravel(eta)
  assert vector.shape == (rule_vector.size(SMALL),)
  back = rule_vector.unravel(SMALL, vector)
  jax.tree_util.tree_map(np.testing.assert_array_equal, eta, back)
  other = dataclasses.replace(SMALL, lstm_size=8)
  assert rule_vector.size(other) != rule_vector.size(SMALL)
