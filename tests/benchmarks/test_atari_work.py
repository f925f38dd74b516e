"""The Atari benchmark's count of work against XLA's."""

from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import atari
from lpg_distributed.core import atari_network


def test_flops_are_those_of_the_compiled_network():
  """Compares with the plain form; XLA counts more for blocks."""
  num_outputs, num = 4 + 30 + 1, 2
  network = atari_network.make_network(
      specs.BoundedArray((4, 84, 84), np.uint8, 0, 255), num_outputs)
  params = jax.eval_shape(network.init, jax.random.PRNGKey(0))
  frames = jax.ShapeDtypeStruct((num, 4, 84, 84), np.uint8)

  def count(f):
    cost = jax.jit(f).lower(params, frames).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)['flops'] / num

  forward = count(atari_network.apply_reference)
  # With the backward pass, the loss needs no forward pass of its own: three
  # times the forward one, but for the first layer's missing third.
  both = count(jax.grad(lambda p, x: jnp.sum(jnp.square(
      atari_network.apply_reference(p, x)))))
  on_paper = atari.network_flops(4, 30)
  # One forward pass in twenty is that of a trajectory's last state.
  np.testing.assert_allclose(both + forward / 20, on_paper, rtol=0.05)
