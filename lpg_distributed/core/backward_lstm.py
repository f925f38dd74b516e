"""The rule's LSTM, run from the last step to the first, and its reverse pass.

Nearly all of meta-training's arithmetic is here, so the reverse pass is
written by hand: gates are kept from the forward pass, the recurrence carries
only the cotangents of h and c, and the weights' gradient is one matrix product
over all steps at the end. One `tanh` serves all four gates, since
sigmoid(z) = (1 + tanh(z / 2)) / 2; the half is folded into the weights.
"""

import chex
import jax
import jax.numpy as jnp


def unroll(w: chex.Array, b: chex.Array, x: chex.Array,
           discount: chex.Array) -> chex.Array:
  """Runs an LSTM backward in time, from a zero carry.

  Args:
    w: [I + H, 4H], input rows first; gates in Haiku's order i, g, f, o.
    b: [4H]; the forget gate adds 1 to its own, as Haiku's does.
    x: [T, N, I].
    discount: [T, N]; the carry that comes from step t + 1 is multiplied by
      the discount of step t, so it is zeroed where t ended an episode.

  Returns:
    h: [T, N, H].
  """
  chex.assert_rank([w, b, x, discount], [2, 1, 3, 2])
  size = b.shape[0] // 4
  half = jnp.concatenate([jnp.full((size,), v) for v in (.5, 1., .5, .5)])
  forget_bias = jnp.zeros_like(b).at[2 * size:3 * size].set(1.)
  num_inputs = x.shape[-1]
  # Rows: inputs, one for the bias, hidden.
  w = jnp.concatenate(
      [w[:num_inputs], (b + forget_bias)[None], w[num_inputs:]]) * half
  x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
  return _unroll(w, x, jax.lax.stop_gradient(discount))


@jax.custom_vjp
def _unroll(w, x, discount):
  return _forward(w, x, discount)[0]


def _forward(w, x, discount):
  """Returns h [T, N, H] and what the reverse pass needs."""
  size = w.shape[1] // 4
  batch = x.shape[1]

  def step(carry, xs):
    h, c = carry
    x_t, discount_t = xs
    h, c = h * discount_t[:, None], c * discount_t[:, None]
    a = jnp.tanh(jnp.concatenate([x_t, h], axis=-1) @ w)  # [N, 4H]
    i, g, f, o = (a[:, k * size:(k + 1) * size] for k in range(4))
    c_t = .5 * ((1. + f) * c + (1. + i) * g)
    h_t = .5 * (1. + o) * jnp.tanh(c_t)
    return (h_t, c_t), (h_t, c_t, a)

  zeros = jnp.zeros((batch, size))
  _, (h, c, a) = jax.lax.scan(step, (zeros, zeros), (x, discount),
                              reverse=True)
  return h, (w, x, discount, h, c, a)


def _backward(residuals, h_bar):
  w, x, discount, h, c, a = residuals
  size = w.shape[1] // 4
  num_inputs = x.shape[-1]
  w_h_transposed = w[num_inputs:].T  # [4H, H]
  # The carry that entered step t came from t + 1.
  c_in = jnp.concatenate([c[1:], jnp.zeros_like(c[:1])])

  def step(carry, xs):
    h_carry, c_carry = carry
    h_bar_t, a_t, c_t, c_in_t, discount_t = xs
    d = discount_t[:, None]
    i, g, f, o = (a_t[:, k * size:(k + 1) * size] for k in range(4))
    h_bar_t = h_bar_t + h_carry
    tanh_c = jnp.tanh(c_t)
    c_bar = c_carry + h_bar_t * .5 * (1. + o) * (1. - tanh_c * tanh_c)
    z_bar = jnp.concatenate([
        c_bar * g * .5 * (1. - i * i),
        c_bar * .5 * (1. + i) * (1. - g * g),
        c_bar * (c_in_t * d) * .5 * (1. - f * f),
        h_bar_t * tanh_c * .5 * (1. - o * o)], axis=-1)  # [N, 4H]
    h_carry = (z_bar @ w_h_transposed) * d
    c_carry = c_bar * .5 * (1. + f) * d
    return (h_carry, c_carry), z_bar

  zeros = jnp.zeros_like(h[0])
  _, z_bar = jax.lax.scan(step, (zeros, zeros),
                          (h_bar, a, c, c_in, discount))
  rows = z_bar.reshape(-1, 4 * size)
  h_in = jnp.concatenate([h[1:], jnp.zeros_like(h[:1])])
  h_in = h_in * discount[..., None]
  x_and_h = jnp.concatenate([x, h_in], axis=-1)
  w_bar = x_and_h.reshape(-1, w.shape[0]).T @ rows
  x_bar = z_bar @ w[:num_inputs].T
  return w_bar, x_bar, jnp.zeros_like(discount)


_unroll.defvjp(_forward, _backward)
