"""Categorical distributions, given by logits [..., N]."""

import chex
import jax
import jax.numpy as jnp


def log_probability(logits: chex.Array, action: chex.Array) -> chex.Array:
  """log pi(a|s), [...]; `logits` [..., A], `action` [...] int32."""
  # A masked sum: on a CPU it is cheaper than a gather, even more so when it is
  # differentiated twice.
  chosen = action[..., None] == jnp.arange(logits.shape[-1])
  return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(logits), 0.), axis=-1)


def entropy(logits: chex.Array) -> chex.Array:
  """Entropy H, [...], in nats."""
  log_p = jax.nn.log_softmax(logits)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def kl_divergence(p_logits: chex.Array, q_logits: chex.Array) -> chex.Array:
  """D_KL(p || q), [...], in nats."""
  log_p = jax.nn.log_softmax(p_logits)
  log_q = jax.nn.log_softmax(q_logits)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
