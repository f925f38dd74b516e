"""Hand-written derivatives of categorical distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.core import distributions


def _plain_log_probability(logits, action):
  return jnp.take_along_axis(
      jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def _plain_kl_divergence(p_logits, q_logits):
  log_p, log_q = map(jax.nn.log_softmax, (p_logits, q_logits))
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _numbers(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 2.,
                     jnp.float32)


def _derivatives(function, *logits):
  """Value, gradients, and gradients of a projection of the first gradient.

  A meta-gradient consists of the last ones.
  """
  weights = _numbers(1, *logits[0].shape[:-1])
  total = lambda *x: jnp.sum(weights * function(*x))
  arguments = tuple(range(len(logits)))
  projected = lambda *x: jnp.sum(
      _numbers(2, *logits[0].shape) * jax.grad(total)(*x))
  return (function(*logits), jax.grad(total, arguments)(*logits),
          jax.grad(projected, arguments)(*logits))


def _assert_close(found, expected):
  jax.tree_util.tree_map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
      found, expected)


def test_log_probability_has_the_derivatives_of_its_formula():
  action = jnp.asarray([[0, 3, 2], [1, 1, 0]])
  logits = _numbers(0, 2, 3, 4)
  _assert_close(
      _derivatives(lambda x: distributions.log_probability(x, action), logits),
      _derivatives(lambda x: _plain_log_probability(x, action), logits))


def test_kl_divergence_has_the_derivatives_of_its_formula():
  p_logits, q_logits = _numbers(0, 2, 2, 3, 5)
  _assert_close(_derivatives(distributions.kl_divergence, p_logits, q_logits),
                _derivatives(_plain_kl_divergence, p_logits, q_logits))


def test_kl_divergence_by_hand():
  p, q = np.array([.5, .25, .25]), np.array([.25, .25, .5])
  # 0.5 log 2 + 0.25 log 1 + 0.25 log 0.5
  np.testing.assert_allclose(
      distributions.kl_divergence(np.log(p), np.log(q)), .25 * np.log(2.),
      rtol=1e-6)


@pytest.mark.parametrize('function', [
    distributions.kl_divergence,
    lambda p, q: distributions.entropy(p),
    lambda p, q: distributions.log_probability(p, jnp.asarray([0, 2]))])
def test_masked_columns_change_nothing_and_have_no_gradient(function):
  p_logits, q_logits = _numbers(0, 2, 2, 5)
  mask = lambda x: jnp.pad(x, ((0, 0), (0, 3)),
                           constant_values=distributions.MASKED_LOGIT)
  value, first, second = _derivatives(function, p_logits, q_logits)
  # A projection with the same weights on the columns that are not masked.
  weights = jnp.pad(_numbers(2, 2, 5), ((0, 0), (0, 3)), constant_values=7.)
  total = lambda *x: jnp.sum(_numbers(1, 2) * function(*x))
  masked = mask(p_logits), mask(q_logits)
  _assert_close(function(*masked), value)
  pad = lambda tree: jax.tree_util.tree_map(
      lambda x: jnp.pad(x, ((0, 0), (0, 3))), tree)
  _assert_close(jax.grad(total, (0, 1))(*masked), pad(first))
  _assert_close(
      jax.grad(lambda *x: jnp.sum(weights * jax.grad(total)(*x)), (0, 1))(
          *masked), pad(second))
