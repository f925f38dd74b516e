"""Table 4's network: the fast forward and backward passes equal the plain."""

from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.core import agent_networks
from lpg_distributed.core import atari_network
from lpg_distributed.core import staged_network

SHAPE, OUTPUTS, N = (3, 44, 36), 5, 4


def make_case():
  network = atari_network.make_network(
      specs.BoundedArray(SHAPE, np.uint8, 0, 255), OUTPUTS)
  rng = np.random.default_rng(0)
  params = network.init(jax.random.PRNGKey(0))
  # Biases start at zero, which would hide a missing bias.
  params = jax.tree_util.tree_map(
      lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
  frames = rng.integers(0, 256, (N,) + SHAPE, dtype=np.uint8)
  d_rows = rng.normal(size=(N, OUTPUTS)).astype(np.float32)
  return network, params, frames, d_rows


def test_shapes():
  network = atari_network.make_network(
      specs.BoundedArray((4, 84, 84), np.uint8, 0, 255), 35)
  params = jax.eval_shape(network.init, jax.random.PRNGKey(0))
  shapes = {name: layer['w'].shape for name, layer in params.items()}
  assert shapes == {'conv_0': (8, 8, 4, 32), 'conv_1': (4, 4, 32, 64),
                    'conv_2': (3, 3, 64, 64), 'dense': (3136, 512),
                    'head': (512, 35)}
  frames = jax.ShapeDtypeStruct((20, 30, 4, 84, 84), np.uint8)
  assert jax.eval_shape(network.apply, params, frames).shape == (20, 30, 35)


def test_forward_on_blocks_equals_the_plain_network():
  network, params, frames, _ = make_case()
  expected = jax.jit(atari_network.apply_reference)(params, frames)
  rows, activations = jax.jit(network.forward)(params, frames)
  np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      network.apply(params, frames.reshape((2, 2) + SHAPE)).reshape(N, -1),
      expected, rtol=1e-4, atol=1e-5)
  for x in activations:
    assert x.min() == 0. and x.max() > 0.


def test_backward_is_the_gradient_of_the_plain_form():
  network, params, frames, d_rows = make_case()
  loss = lambda p: jnp.sum(atari_network.apply_reference(p, frames) * d_rows)
  expected = jax.jit(jax.grad(loss))(params)
  _, activations = jax.jit(network.forward)(params, frames)
  gradient = jax.jit(network.backward)(params, frames, activations, d_rows)
  for name, layer in expected.items():
    for key, value in layer.items():
      assert np.abs(value).max() > 1e-3, (name, key)
      np.testing.assert_allclose(gradient[name][key], value, rtol=1e-3,
                                 atol=1e-4 * np.abs(value).max(),
                                 err_msg=f'{name} {key}')


def test_staged_splits_any_network_into_forward_and_backward():
  plain = agent_networks.Network(
      init=lambda key: jax.random.normal(key, (3, 2)),
      apply=lambda w, x: jnp.square(x @ w))
  network = staged_network.staged(plain)
  assert staged_network.staged(network) is network
  rng = np.random.default_rng(0)
  w, x, d_rows = (rng.normal(size=shape).astype(np.float32)
                  for shape in ((3, 2), (N, 3), (N, 2)))
  rows, activations = network.forward(w, x)
  np.testing.assert_allclose(rows, np.square(x @ w), rtol=1e-5)
  np.testing.assert_allclose(network.backward(w, x, activations, d_rows),
                             x.T @ (2. * (x @ w) * d_rows), rtol=1e-4)


@pytest.mark.parametrize('shape', [(4, 84), (4, 80, 84), (4, 28, 84)])
def test_frames_of_other_shapes_are_refused(shape):
  with pytest.raises(ValueError, match='allowed: .C, H, W.'):
    atari_network.make_network(
        specs.BoundedArray(shape, np.uint8, 0, 255), OUTPUTS)
