"""Categorical distributions, given by logits [..., N].

The meta-gradient differentiates the update of Eq. (2), which is a gradient
itself. So `log_probability` and `kl_divergence` are differentiated twice. Their
derivatives are written by hand: they reuse the probabilities, where automatic
ones would compute exponentials again in each of them.
"""

import chex
import jax
import jax.numpy as jnp

# Logit of a masked outcome. It is finite, since with minus infinity
# p * log(p) would be NaN. The softmax of this value is exactly 0.
MASKED_LOGIT = -1e9


@jax.custom_vjp
def log_probability(logits: chex.Array, action: chex.Array) -> chex.Array:
  """log pi(a|s), [...]; `logits` [..., A], `action` [...] int32."""
  # A masked sum: on a CPU it is cheaper than a gather.
  return jnp.sum(jnp.where(_one_hot(logits, action),
                           jax.nn.log_softmax(logits), 0.), axis=-1)


def _one_hot(logits, action):
  return action[..., None] == jnp.arange(logits.shape[-1])


def _log_probability_vjp(residuals, cotangent):
  logits, action = residuals
  return (cotangent[..., None] * (_one_hot(logits, action)
                                  - jax.nn.softmax(logits)), None)


log_probability.defvjp(
    lambda logits, action: (log_probability(logits, action), (logits, action)),
    _log_probability_vjp)


def entropy(logits: chex.Array) -> chex.Array:
  """Entropy H, [...], in nats."""
  log_p = jax.nn.log_softmax(logits)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


@jax.custom_vjp
def kl_divergence(p_logits: chex.Array, q_logits: chex.Array) -> chex.Array:
  """D_KL(p || q), [...], in nats."""
  return _kl_parts(p_logits, q_logits)[2]


def _kl_parts(p_logits, q_logits):
  """Returns p [..., N], log(p / q) [..., N] and the divergence [...]."""
  p = jax.nn.softmax(p_logits)
  log_ratio = jax.nn.log_softmax(p_logits) - jax.nn.log_softmax(q_logits)
  return p, log_ratio, jnp.sum(p * log_ratio, axis=-1)


@jax.custom_vjp
def _kl_slope(p_logits, q_logits):
  """The gradient of the divergence with respect to `p_logits`, [..., N]."""
  return _kl_slope_and_parts(p_logits, q_logits)[0]


def _kl_slope_and_parts(p_logits, q_logits):
  p, log_ratio, divergence = _kl_parts(p_logits, q_logits)
  excess = log_ratio - divergence[..., None]
  return p * excess, (p, excess)


def _kl_slope_vjp(parts, cotangent):
  p, excess = parts
  weighted = p * cotangent
  mean = jnp.sum(weighted, axis=-1, keepdims=True)
  covariance = jnp.sum(weighted * excess, axis=-1, keepdims=True)
  q_bar = p * mean - weighted
  return -q_bar * (1. + excess) - p * covariance, q_bar


_kl_slope.defvjp(_kl_slope_and_parts, _kl_slope_vjp)


def _kl_divergence_vjp(residuals, cotangent):
  p_logits, q_logits = residuals
  cotangent = cotangent[..., None]
  return (cotangent * _kl_slope(p_logits, q_logits),
          cotangent * (jax.nn.softmax(q_logits) - jax.nn.softmax(p_logits)))


kl_divergence.defvjp(
    lambda p_logits, q_logits: (kl_divergence(p_logits, q_logits),
                                (p_logits, q_logits)), _kl_divergence_vjp)
