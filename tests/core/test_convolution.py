"""Convolutions as matrix products against `lax.conv`, to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.core import convolution

# Not square, so that swapped rows and columns are noticed. Odd and even widths,
# since later layers process pairs of columns.
SIZES = [(5, 7), (4, 6)]
# One to four layers: in every second layer, blocks begin at another column.
FILTERS = [(6,), (6, 4), (5, 4, 3), (2, 3, 4, 5)]


def make_arguments(size, filters, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  channels = (3,) + filters
  layers = [(draw(9 * c, f) / 3., draw(f)) for c, f in
            zip(channels, filters)]
  return draw(4, *size, 3), layers, draw(4, *size, filters[-1])


def plain(x, layers):
  for w, b in layers:
    x = jax.nn.relu(b + jax.lax.conv_general_dilated(
        x, w.reshape(3, 3, x.shape[-1], -1), (1, 1), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision='highest'))
  return x


def assert_close(one, other):
  for a, b in zip(*map(jax.tree_util.tree_leaves, (one, other))):
    np.testing.assert_allclose(a, b, rtol=1e-4,
                               atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('filters', FILTERS)
def test_equals_lax_conv(size, filters):
  x, layers, _ = make_arguments(size, filters)
  assert_close(convolution.convolve(x, layers), plain(x, layers))


@pytest.mark.pinned
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('filters', FILTERS)
def test_gradients_equal_to_second_order(size, filters):
  x, layers, y_bar = make_arguments(size, filters)

  def derivatives(convolve):
    def loss(*args):
      return jnp.sum(y_bar * jnp.tanh(0.2 * convolve(*args)))

    first = jax.jit(jax.grad(loss, argnums=(0, 1)))
    square = lambda *args: sum(jnp.sum(jnp.square(g)) for g in
                               jax.tree_util.tree_leaves(first(*args)))
    second = jax.jit(jax.grad(square, argnums=(0, 1)))
    return first(x, layers), second(x, layers)

  assert_close(derivatives(convolution.convolve), derivatives(plain))


def test_vmap_over_weights_equals_each_agent_alone():
  """Lifetimes run under `vmap`, each with its own weights."""
  x, layers, _ = make_arguments((5, 7), (5, 4, 3))
  both = jax.tree_util.tree_map(lambda a: jnp.stack([a, -a]), layers)
  out = jax.vmap(convolution.convolve, in_axes=(None, 0))(x, both)
  assert_close(out[1], plain(x, jax.tree_util.tree_map(jnp.negative, layers)))
