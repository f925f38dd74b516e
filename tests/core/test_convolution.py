"""The convolution as a product of rows against `lax.conv`."""

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.core import agent_networks


def make_arguments(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  # Not square, so that rows and columns cannot be taken for each other.
  return draw(4, 5, 7, 3), draw(27, 6), draw(6), draw(4, 5, 7, 6)


def ours(x, w, b):
  n, height, width, _ = x.shape
  y = agent_networks.convolve(x.reshape(n, height, -1), w, b)
  return y.reshape(n, height, width, -1)


def plain(x, w, b):
  kernel = w.reshape(3, 3, x.shape[-1], -1)
  return b + jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision='highest')


def assert_close(one, other):
  for a, b in zip(*map(jax.tree_util.tree_leaves, (one, other))):
    np.testing.assert_allclose(a, b, rtol=1e-4,
                               atol=1e-5 * np.abs(b).max())


def test_equals_lax_conv():
  x, w, b, _ = make_arguments()
  assert_close(ours(x, w, b), plain(x, w, b))


def test_gradients_equal_to_second_order():
  x, w, b, y_bar = make_arguments()

  def derivatives(convolve):
    def loss(*args):
      return jnp.sum(y_bar * jnp.tanh(0.2 * convolve(*args)))

    first = jax.grad(loss, argnums=(0, 1, 2))
    square = lambda *args: sum(jnp.sum(jnp.square(g)) for g in first(*args))
    return first(x, w, b), jax.grad(square, argnums=(0, 1, 2))(x, w, b)

  assert_close(derivatives(ours), derivatives(plain))
