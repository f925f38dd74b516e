"""The rule's LSTM, run from the last step to the first, and its reverse pass.

Nearly all of meta-training's arithmetic is here, so the reverse pass is written
by hand. It reads the gates that the forward pass stored. It carries the
cotangents of h and c and the sum of the weights' gradient from step to step.
The cotangents of the gates would be the largest array; they are never stored.

All four gates are computed by one `tanh`, since sigmoid(z) = (1 + tanh(z / 2))
/ 2. The factor 1/2 is multiplied into the weights.

Names: i, g, f, o are the gates, `a` their concatenation after `tanh`, [N, 4H],
and `x_bar` is the cotangent of `x`.
"""

import chex
import jax
from jax import ad_checkpoint
import jax.numpy as jnp

# Number of zero columns after the gates. Without them rows of 4 * 256 floats
# map to the same cache lines, and matrix products take twice the time.
_PADDING = 16

# Name of the arrays that the reverse pass reads. A `jax.checkpoint` that saves
# this name does not run the LSTM again.
RESIDUALS = 'backward_lstm_residuals'


def unroll(w: chex.Array, b: chex.Array, x: chex.Array,
           discount_t: chex.Array) -> chex.Array:
  """Runs an LSTM backward in time, from a zero carry.

  Args:
    w: [I + H, 4H], input rows first; gates in Haiku's order i, g, f, o.
    b: [4H]; 1 is added to the forget gate's bias, as in Haiku.
    x: [T, N, I].
    discount_t: [T, N], d_t. The carry from step t + 1 is multiplied by d_t, so
      it is zeroed where step t ended an episode.

  Returns:
    h: [T, N, H].
  """
  chex.assert_rank([w, b, x, discount_t], [2, 1, 3, 2])
  size = b.shape[0] // 4
  scale = jnp.concatenate([jnp.full((size,), v) for v in (.5, 1., .5, .5)])
  forget_bias = jnp.zeros_like(b).at[2 * size:3 * size].set(1.)
  num_inputs = x.shape[-1]
  # Rows: inputs, one for the bias, hidden.
  w = jnp.concatenate(
      [w[:num_inputs], (b + forget_bias)[None], w[num_inputs:]]) * scale
  w = jnp.pad(w, ((0, 0), (0, _PADDING)))
  x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
  return _unroll(w, x, jax.lax.stop_gradient(discount_t))


@jax.custom_vjp
def _unroll(w, x, discount_t):
  return _forward(w, x, discount_t)[0]


def _split_gates(a, size):
  return (a[:, k * size:(k + 1) * size] for k in range(4))


def _forward(w, x, discount_t):
  """Returns h [T, N, H] and the residuals of `_backward`."""
  size = w.shape[0] - x.shape[-1]

  def step(carry, xs):
    h, c = carry
    x_t, discount_t = xs
    h, c = h * discount_t[:, None], c * discount_t[:, None]
    x_and_h = jnp.concatenate([x_t, h], axis=-1)
    # The slice leaves out the padding. It also makes the shape differ from the
    # product's: else XLA would compute the tanh in place, without vector
    # instructions.
    a = jnp.tanh((x_and_h @ w)[:, :4 * size])
    i, g, f, o = _split_gates(a, size)
    c_t = .5 * ((1. + f) * c + (1. + i) * g)
    h_t = .5 * (1. + o) * jnp.tanh(c_t)
    return (h_t, c_t), (h_t, c_t, a)

  zeros = jnp.zeros((x.shape[1], size), w.dtype)
  _, residuals = jax.lax.scan(step, (zeros, zeros), (x, discount_t),
                              reverse=True)
  h, c, a = (ad_checkpoint.checkpoint_name(r, RESIDUALS) for r in residuals)
  return h, (w, x, discount_t, h, c, a)


def _backward(residuals, h_bar):
  """Returns the cotangents of w, x and discount_t; the last one is 0."""
  w, x, discount_t, h, c, a = residuals
  num_steps, _, size = c.shape
  num_inputs = x.shape[-1]
  w_transposed = w.T
  # The carry of step t comes from step t + 1; that of the last step is zero.
  discount_t = discount_t.at[-1].set(0.)

  def step(carry, xs):
    h_carry, c_carry, w_bar, z_bar = carry
    t, h_bar_t, a_t, c_t, x_t, discount_t = xs
    d = discount_t[:, None]
    # Indexed in place: arrays shifted by one step would be copies.
    h_in, c_in = (jax.lax.dynamic_index_in_dim(
        r, jnp.minimum(t + 1, num_steps - 1), keepdims=False) * d
                  for r in (h, c))
    i, g, f, o = _split_gates(a_t, size)
    h_bar_t = h_bar_t + h_carry
    tanh_c = jnp.tanh(c_t)
    c_bar = c_carry + h_bar_t * .5 * (1. + o) * (1. - tanh_c * tanh_c)
    # Gate by gate, since XLA's loop for a concatenation is slow.
    for k, part in enumerate((
        c_bar * g * .5 * (1. - i * i),
        c_bar * .5 * (1. + i) * (1. - g * g),
        c_bar * c_in * .5 * (1. - f * f),
        h_bar_t * tanh_c * .5 * (1. - o * o))):
      z_bar = jax.lax.dynamic_update_slice_in_dim(z_bar, part, k * size, 1)
    x_and_h_bar = z_bar @ w_transposed
    w_bar = w_bar + jnp.concatenate([x_t, h_in], axis=-1).T @ z_bar
    c_carry = c_bar * .5 * (1. + f) * d
    h_carry = x_and_h_bar[:, num_inputs:] * d
    return (h_carry, c_carry, w_bar, z_bar), x_and_h_bar[:, :num_inputs]

  zeros = jnp.zeros_like(c[0])
  z_bar = jnp.zeros((c.shape[1], w.shape[1]), w.dtype)
  (_, _, w_bar, _), x_bar = jax.lax.scan(
      step, (zeros, zeros, jnp.zeros_like(w), z_bar),
      (jnp.arange(num_steps), h_bar, a, c, x, discount_t))
  return w_bar, x_bar, jnp.zeros_like(discount_t)


_unroll.defvjp(_forward, _backward)
