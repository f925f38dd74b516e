"""The meta-update: Adam by hand on the mean over lifetimes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector

RULE = config_lib.RuleConfig(num_predictions=4, embedding_size=3, lstm_size=3)


def make_config(**meta):
  return config_lib.Config(rule=RULE, meta=config_lib.MetaConfig(**meta))


def adam_by_hand(eta, gradients, learning_rate):
  """Kingma & Ba, Algorithm 1, with their constants.

  Args:
    eta: [P].
    gradients: [P] each.
    learning_rate: a number, or one number per step.
  """
  m, v = np.zeros_like(eta), np.zeros_like(eta)
  rates = np.broadcast_to(learning_rate, len(gradients))
  for t, (gradient, learning_rate) in enumerate(zip(gradients, rates), 1):
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient ** 2
    m_hat, v_hat = m / (1 - 0.9 ** t), v / (1 - 0.999 ** t)
    eta = eta - learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)
  return eta


@pytest.mark.parametrize('max_norm', [0., 0.5])
@pytest.mark.parametrize('jit', [False, True])
def test_adam_on_the_mean_by_hand(max_norm, jit):
  config = make_config(learning_rate=0.01, max_gradient_norm=max_norm)
  state = meta_update.init(config)
  begin = np.asarray(state.eta, np.float64)
  rng = np.random.default_rng(0)
  sums = rng.normal(size=(4, begin.size)).astype(np.float32)
  num_lifetimes = (10, 40, 1000, 7)
  compiled = contextlib.nullcontext if jit else jax.disable_jit
  means = []
  for gradient_sum, num in zip(sums, num_lifetimes):
    with compiled():
      state, norm = meta_update.apply(
          config.meta, state, gradient_sum, jnp.float32(num))
    mean = gradient_sum.astype(np.float64) / num
    length = np.linalg.norm(mean)
    np.testing.assert_allclose(norm, length, rtol=1e-5)  # Before clipping.
    means.append(mean * min(1., max_norm / length) if max_norm else mean)
  assert any(np.linalg.norm(s / n) > 0.5
             for s, n in zip(sums, num_lifetimes))
  assert any(np.linalg.norm(s / n) < 0.5
             for s, n in zip(sums, num_lifetimes))
  np.testing.assert_allclose(state.eta, adam_by_hand(begin, means, 0.01),
                             rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('final', [0., 0.002])
def test_the_learning_rate_decays_along_a_cosine(final):
  config = make_config(learning_rate=0.01, learning_rate_decay_steps=4,
                       final_learning_rate=final)
  state = meta_update.init(config)
  begin = np.asarray(state.eta, np.float64)
  gradients = np.random.default_rng(0).normal(size=(6, begin.size))
  for gradient in gradients:
    state, _ = meta_update.apply(config.meta, state,
                                 gradient.astype(np.float32), jnp.float32(1.))
  half = np.sqrt(0.5)
  shares = np.array([1., (1. + half) / 2, 0.5, (1. - half) / 2, 0., 0.])
  np.testing.assert_allclose(
      state.eta,
      adam_by_hand(begin, gradients, final + (0.01 - final) * shares),
      rtol=1e-4, atol=1e-6)


def test_a_final_learning_rate_needs_a_number_of_steps():
  with pytest.raises(config_lib.ConfigError, match='final_learning_rate is'):
    make_config(final_learning_rate=0.1)


def test_update_descends_the_gradient():
  config = make_config(learning_rate=0.01)
  state = meta_update.init(config)
  new, _ = meta_update.apply(config.meta, state, jnp.ones_like(state.eta),
                             jnp.float32(5.))
  np.testing.assert_allclose(new.eta, state.eta - 0.01, rtol=1e-5, atol=1e-6)


def test_a_new_rule_is_drawn_from_the_seed():
  make = lambda seed: meta_update.init(config_lib.Config(
      rule=RULE, run=config_lib.RunConfig(seed=seed))).eta
  np.testing.assert_array_equal(make(3), make(3))
  assert np.any(make(3) != make(4))


def test_the_vector_is_ordered_by_names():
  """Files of rules depend on this order."""
  eta = rule_vector.init(RULE, jax.random.PRNGKey(0))
  order = [('lpg/lstm/linear', 'b'), ('lpg/lstm/linear', 'w'),
           ('lpg/phi/~/linear_0', 'b'), ('lpg/phi/~/linear_0', 'w'),
           ('lpg/phi/~/linear_1', 'b'), ('lpg/phi/~/linear_1', 'w'),
           ('lpg/pi_hat', 'b'), ('lpg/pi_hat', 'w'),
           ('lpg/y_hat', 'b'), ('lpg/y_hat', 'w')]
  expected = np.concatenate([np.ravel(eta[m][p]) for m, p in order])
  np.testing.assert_array_equal(rule_vector.ravel(eta), expected)
  # 12 + (6 + 3) * 12; 3 + 4 * 3; 1 + 3; 1 + 3; 4 + 3 * 4.
  assert expected.size == 120 + 15 + 4 + 4 + 16 == rule_vector.size(RULE)
