"""The benchmark's formulas against XLA's own count."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import work
from lpg_distributed import config as config_lib
from lpg_distributed.core import agent_networks
from lpg_distributed.core import convolution
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.envs import suite


def xla_flops(function, *args):
  analysis = jax.jit(function).lower(*args).compile().cost_analysis()
  analysis = analysis[0] if isinstance(analysis, list) else analysis
  return analysis['flops']


def test_the_rule():
  """One step, since XLA counts the body of a loop once."""
  config, n = config_lib.RuleConfig(), 256
  eta = rule_vector.init(config, jax.random.PRNGKey(0))
  inputs = rule_inputs.RuleInput(*[jnp.ones((1, n))] * 4, jnp.ones((2, n, 30)))
  counted = xla_flops(lpg_network.apply, eta, inputs) / n
  # XLA also counts the padding, 1.6 %, and what is not a product.
  np.testing.assert_allclose(counted, work.rule_forward(config, 1), rtol=0.04)


def with_patches(x, layers):
  """`convolution.convolve` without its multiplications by zero."""
  x = x.astype(jnp.float32)
  _, height, width, _ = x.shape
  for w, b in layers:
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [x[:, i:i + height, j:j + width]
               for i in range(3) for j in range(3)]
    x = jax.nn.relu(jnp.concatenate(patches, -1) @ w + b)
  return x


@pytest.mark.parametrize('name', ['random_small', 'random_dense',
                                  'random_very_dense',
                                  'chain_state_distraction'])
def test_agents(name, monkeypatch):
  # What counts as work is the plain convolution, however it is computed.
  monkeypatch.setattr(convolution, 'convolve', with_patches)
  agent_config = config_lib.AGENTS[name]
  spec = suite.load(name).observation_spec()
  network = agent_networks.make_network(agent_config, spec, 48)
  theta = network.init(jax.random.PRNGKey(0))
  n = 32
  counted = xla_flops(network.apply, theta,
                      jnp.ones((n, *spec.shape), jnp.uint8)) / n
  layers = work.network_layers(agent_config, spec.shape, 48)
  np.testing.assert_allclose(counted, sum(layers), rtol=0.06)
  weights = sum(math.prod(leaf.shape)
                for leaf in jax.tree_util.tree_leaves(theta) if leaf.ndim == 2)
  if not agent_config.conv:
    assert sum(layers) == 2 * weights


def test_a_table_costs_nothing():
  config = config_lib.Config()
  done = work.meta_step(config, config.agents['chain_short'], (), 2)
  assert done.agent == 0.
  np.testing.assert_allclose(done.rule, 3 * 0.555e6, rtol=0.01)
