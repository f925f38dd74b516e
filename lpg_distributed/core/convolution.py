"""3x3 convolutions under `vmap` over agents, each with its own weights.

On a CPU `lax.conv` under `vmap` over weights takes many times as long as its
multiplications need, so convolutions are matrix products here:

- The first layer multiplies whole rows of the observation, mostly by zeros.
  This moves the least data.
- Later layers multiply blocks of two neighbouring pixels by all taps of the
  kernel at once, then sum the products that belong to the same output pixel.
  This takes 1.5 times the necessary multiplications.

Three operations suffice: `_scatter_product` and its derivatives,
`_gather_product` and `_weight_product`. Each is linear in each argument, and
the derivatives of all three consist of the same three. So first and second
derivatives are equally fast.
"""

import functools
from typing import Sequence

import chex
import jax
from jax import ad_checkpoint
import jax.numpy as jnp
import numpy as np

# Name of the arrays that a second derivative reads. A `jax.checkpoint` that
# saves this name does not run the network again.
RESIDUALS = 'activations_and_cotangents'

_Size = tuple[int, int]


def _named(x: chex.Array) -> chex.Array:
  return ad_checkpoint.checkpoint_name(x, RESIDUALS)


@jax.custom_vjp
def relu(x: chex.Array) -> chex.Array:
  """ReLU whose derivatives read its output instead of `x`.

  The output is named RESIDUALS.
  """
  return _named(jnp.maximum(x, 0.))


def _relu_forward(x):
  out = relu(x)  # So that the second derivative uses `_relu_backward` too.
  return out, out


def _relu_backward(out, ct):
  return (_named(jnp.where(out > 0., ct, 0.)),)


relu.defvjp(_relu_forward, _relu_backward)


def convolve(observation: chex.Array,
             layers: Sequence[tuple[chex.Array, chex.Array]]) -> chex.Array:
  """Applies zero-padded 3x3 convolutions with ReLU, one after the other.

  Args:
    observation: [N, H, W, C].
    layers: per layer w [9C, F], rows in the order (row, column, channel) of
      the kernel, and b [F]. At least one layer.

  Returns:
    [N, H, W, F], the output of the last layer.
  """
  num, height, width, _ = observation.shape
  # The first block begins at column -offset. The offset alternates from layer
  # to layer, so that a block contributes to two output blocks and not three.
  offset = (len(layers) - 1) % 2
  padded = width if len(layers) == 1 else _padded_width(width, offset)
  x = relu(_first_layer(observation.astype(jnp.float32), *layers[0], padded,
                        offset))
  for w, b in layers[1:]:
    filters = b.shape[0]
    x = x.reshape(num, height, -1, 2 * w.shape[0] // 9)
    offset = 1 - offset
    padded = _padded_width(width, offset)
    x = _scatter_product(x, _block_matrix(w), offset, (height, padded // 2))
    inside = _inside(width, padded, offset, filters).reshape(-1, 2 * filters)
    x = relu(jnp.where(inside, x + jnp.tile(b, 2), 0.))
  x = x.reshape(num, height, padded, -1)
  return x[:, :, offset:offset + width]


def _padded_width(width: int, offset: int) -> int:
  return width + offset + (width + offset) % 2


def _inside(width: int, padded: int, offset: int, filters: int) -> np.ndarray:
  """[padded, filters] bool: True for the columns that are not padding."""
  columns = np.arange(padded) - offset
  inside = (columns >= 0) & (columns < width)
  return np.broadcast_to(inside[:, None], (padded, filters))


def _first_layer(x, w, b, padded, offset):
  """Maps [N, H, W, C] to [N, H, padded * F], before the ReLU."""
  num, height, width, _ = x.shape
  x = jnp.pad(x.reshape(num, height, -1), ((0, 0), (1, 1), (0, 0)))
  # The bias is one more row of the matrix: XLA's loop to add it later is slow.
  rows = jnp.concatenate([x[:, i:i + height] for i in range(3)]
                         + [jnp.ones((num, height, 1))], axis=-1)
  bias = jnp.where(_inside(width, padded, offset, b.shape[0]), b, 0.)
  matrix = jnp.concatenate(
      [_row_matrix(w, padded, offset, width), bias.reshape(1, -1)])
  return (_flat(rows) @ matrix).reshape(num, height, -1)


def _row_matrix(w, padded, offset, width):
  """Expands w [9C, F] to the map from three rows to one.

  Returns:
    [3 * W * C, padded * F].
  """
  filters = w.shape[-1]
  # [3, W, padded]: for each column of the kernel, the output column that each
  # input column contributes to.
  columns = np.stack([np.pad(np.eye(width, k=1 - j, dtype=np.float32),
                             ((0, 0), (offset, padded - offset - width)))
                      for j in range(3)])
  return jnp.einsum('jio,kjcf->kicof', columns,
                    w.reshape(3, 3, -1, filters)).reshape(-1, padded * filters)


def _block_matrix(w):
  """Expands w [9C, F] to the map from a block to the 3 x 2 output blocks.

  Returns:
    [2C, 3 * 2 * 2F].
  """
  filters = w.shape[-1]
  # Input pixel a, of the four in two blocks, contributes to pixel o of an
  # output block through column a - o of the kernel.
  columns = np.zeros((4, 2, 3), np.float32)
  for a, o in np.ndindex(4, 2):
    if 0 <= a - o < 3:
      columns[a, o, a - o] = 1.
  return jnp.einsum('sbot,rtcf->bcrsof', columns.reshape(2, 2, 2, 3),
                    w.reshape(3, 3, -1, filters)).reshape(-1, 12 * filters)


def _taps(offset: int, size_in: _Size, size_out: _Size):
  """Yields, for each of the 3 x 2 taps, which blocks it maps to which.

  Yields:
    The tap's index, slices of the input blocks, slices of the output blocks.
  """
  def axis(shift, n_in, n_out):
    begin, end = max(0, shift), min(n_out, n_in + shift)
    return slice(begin - shift, end - shift), slice(begin, end)

  for r in range(3):
    row_in, row_out = axis(1 - r, size_in[0], size_out[0])
    for s in range(2):
      column_in, column_out = axis(offset - s, size_in[1], size_out[1])
      yield (2 * r + s, (slice(None), row_in, column_in),
             (slice(None), row_out, column_out))


def _put(target, part, block, channel=0):
  """Writes `part` into `target`; faster than a concatenation or padding."""
  _, rows, columns = block
  return jax.lax.dynamic_update_slice(
      target, part, (0, rows.start, columns.start, channel))


def _windows(y: chex.Array, offset: int, size_in: _Size) -> chex.Array:
  """Gathers, for each input block, the 6 output blocks that it contributes to.

  Maps [N, *size_out, E] to [N, *size_in, 6E].
  """
  num, *size_out, width = y.shape
  windows = jnp.zeros((num, *size_in, 6 * width))
  for tap, block_in, block_out in _taps(offset, size_in, size_out):
    windows = _put(windows, y[block_out], block_in, tap * width)
  return windows


def _flat(x):
  return x.reshape(-1, x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scatter_product(x: chex.Array, m: chex.Array, offset: int,
                     size_out: _Size) -> chex.Array:
  """Multiplies blocks x [N, h, w, D] by m [D, 6E] and sums over the taps.

  Returns:
    [N, *size_out, E].
  """
  num, *size_in, _ = x.shape
  products = (_flat(x) @ m).reshape(num, *size_in, 6, -1)
  out = jnp.zeros((num, *size_out, products.shape[-1]))
  for tap, block_in, block_out in _taps(offset, size_in, size_out):
    out = _put(out, out[block_out] + products[block_in + (tap,)], block_out)
  return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gather_product(y: chex.Array, m: chex.Array, offset: int,
                    size_in: _Size) -> chex.Array:
  """The cotangent of `x` in `_scatter_product`, [N, *size_in, D]."""
  windows = _windows(y, offset, size_in)
  return (_flat(windows) @ m.T).reshape(y.shape[0], *size_in, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _weight_product(x: chex.Array, y: chex.Array, offset: int) -> chex.Array:
  """The cotangent of `m` in `_scatter_product`, [D, 6E]."""
  return _flat(x).T @ _flat(_windows(y, offset, x.shape[1:3]))


def _scatter_backward(offset, size_out, residuals, y):
  del size_out
  x, m = residuals
  return (_gather_product(y, m, offset, x.shape[1:3]),
          _weight_product(x, y, offset))


def _gather_backward(offset, size_in, residuals, x):
  del size_in
  y, m = residuals
  return (_scatter_product(x, m, offset, y.shape[1:3]),
          _weight_product(x, y, offset))


def _weight_backward(offset, residuals, m):
  x, y = residuals
  return (_gather_product(y, m, offset, x.shape[1:3]),
          _scatter_product(x, m, offset, y.shape[1:3]))


_scatter_product.defvjp(
    lambda x, m, *static: (_scatter_product(x, m, *static), (x, m)),
    _scatter_backward)
_gather_product.defvjp(
    lambda y, m, *static: (_gather_product(y, m, *static), (y, m)),
    _gather_backward)
_weight_product.defvjp(
    lambda x, y, offset: (_weight_product(x, y, offset), (x, y)),
    _weight_backward)
