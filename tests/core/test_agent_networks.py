"""Tables and networks of Table 3, counted by hand."""

import dataclasses

from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import agent_networks
from lpg_distributed.core import lifetime
from lpg_distributed.envs import suite

M = 30


def count(*layers):
  """Weights and biases of dense layers, given as (inputs, outputs)."""
  return sum(inputs * outputs + outputs for inputs, outputs in layers)


NUM_ACTIONS = {'balance': 2, 'random_mdp': 5, 'random_mdp_features': 5}
# Outputs: 18 + 30 on grids, 2 + 30 on chains. Planes: one per object type and
# the agent's. A 3x3 filter has 9 inputs per channel.
PARAMETERS = {
    'tabular_dense': 121 * 2 ** 4 * 48,
    'tabular_sparse': 169 * 2 ** 2 * 48,
    'tabular_long_horizon': 121 * 2 ** 4 * 48,
    'tabular_longer_horizon': 63 * 2 ** 7 * 48,
    'tabular_long_dense': 121 * 2 ** 4 * 48,
    'random_dense': count((9 * 4, 16), (121 * 16, 32), (32, 48)),
    'random_long_horizon': count((9 * 3, 16), (121 * 16, 32), (32, 48)),
    'random_small': count((35 * 3, 32), (32, 48)),
    'random_small_sparse': count((35 * 3, 32), (32, 48)),
    'random_very_dense': count((9 * 2, 32), (9 * 32, 16), (9 * 16, 16),
                               (121 * 16, 256), (256, 48)),
    'chain_short': (4 * 30 - 2) * 32,
    'chain_short_noisy': (4 * 30 - 2) * 32,
    'chain_long': (4 * 50 - 2) * 32,
    'chain_long_noisy': (4 * 50 - 2) * 32,
    'chain_state_distraction': count((22, 16), (16, 32)),
    # Beyond the paper.
    'survival_chain': 15 * 32,
    'balance': count((4, 32), (32, 32)),
    'random_mdp': 20 * 35,
    'random_mdp_features': count((8, 32), (32, 35)),
    'random_grids': 49 * 2 ** 4 * 48,
    'random_grids_planes': count((49 * 6, 32), (32, 48)),
}


@pytest.mark.parametrize('name', suite.ALL)
def test_parameters_and_shapes(name):
  kind = lifetime.make_kind(config_lib.Config(environments=(name,)), name)
  num_actions = NUM_ACTIONS.get(name, 2 if 'chain' in name else 18)
  key = jax.random.PRNGKey(0)

  def run(key):
    theta = kind.agent.init(key)
    params = kind.environment.init_params(key)
    _, observation = jax.vmap(kind.environment.reset, (None, 0))(
        params, jax.random.split(key, 6))
    observation = observation.reshape((2, 3) + observation.shape[1:])
    mask = kind.environment.action_mask(params)
    return theta, kind.agent.apply(theta, observation, mask)

  theta, output = jax.eval_shape(run, key)
  assert sum(x.size for x in jax.tree_util.tree_leaves(
      theta)) == PARAMETERS[name]
  assert output.logits.shape == (2, 3, num_actions)
  assert output.y_logits.shape == (2, 3, M)
  assert output.logits.dtype == output.y_logits.dtype == jnp.float32


PLANES = specs.BoundedArray((5, 7, 3), np.uint8, 0, 1)
CONV = config_lib.AgentConfig((4, 6), (8,), 'adam', (0.001,))


def make_planes(seed=0):
  return (np.random.default_rng(seed).random((2, 3, 5, 7, 3)) < 0.4).astype(
      np.uint8)


@pytest.mark.parametrize('jit', [False, True])
def test_torso_equals_lax_conv(jit):
  """3x3, zero-padded, stride 1, ReLU after each layer but the head."""
  network = agent_networks.make_network(CONV, PLANES, 9)
  params = jax.tree_util.tree_map(  # Haiku starts biases at zero.
      lambda x: x + 0.1 * jax.random.normal(jax.random.PRNGKey(1), x.shape),
      network.init(jax.random.PRNGKey(0)))
  planes = make_planes()
  out = (jax.jit(network.apply) if jit else network.apply)(params, planes)

  x = planes.reshape(6, 5, 7, 3).astype(np.float32)
  for i, channels in enumerate((3, 4)):
    layer = params[f'conv_{i}']
    w = layer['w'].reshape(3, 3, channels, -1)  # row, column, channel, filter
    x = jax.lax.conv_general_dilated(
        x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    x = np.maximum(x + layer['b'], 0.)
  x = x.reshape(6, -1)
  x = np.maximum(x @ params['dense_0']['w'] + params['dense_0']['b'], 0.)
  x = x @ params['head']['w'] + params['head']['b']
  np.testing.assert_allclose(out, x.reshape(2, 3, 9), rtol=1e-5, atol=1e-5)


def test_torso_gradient_equals_lax_conv():
  """With other weights for each agent, as in meta-training."""
  network = agent_networks.make_network(
      dataclasses.replace(CONV, conv=(4,)), PLANES, 2)
  params = jax.vmap(network.init)(jax.random.split(jax.random.PRNGKey(0), 2))
  planes = make_planes()

  def plain(params, planes):
    x = jax.lax.conv_general_dilated(
        planes.astype(jnp.float32), params['conv_0']['w'].reshape(3, 3, 3, 4),
        (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    x = jax.nn.relu(x + params['conv_0']['b']).reshape(planes.shape[0], -1)
    x = jax.nn.relu(x @ params['dense_0']['w'] + params['dense_0']['b'])
    return x @ params['head']['w'] + params['head']['b']

  def gradient(apply):
    return jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(
        jax.vmap(apply)(p, planes)))))(params)

  for one, other in zip(*(jax.tree_util.tree_leaves(gradient(f))
                          for f in (network.apply, plain))):
    assert np.abs(other).max() > 0
    np.testing.assert_allclose(one, other, rtol=1e-4,
                               atol=1e-5 * np.abs(other).max())


def test_table_returns_the_row_of_each_state():
  states = specs.DiscreteArray(7)
  agent = agent_networks.make_agent(config_lib.AgentConfig(), states, 3, 4,
                                    0.5)
  theta = agent.init(jax.random.PRNGKey(0))
  assert theta.shape == (7, 7) and not theta[:, :3].any()
  assert np.unique(theta[:, 3:]).size == 28
  observation = jnp.array([[6, 0], [2, 2]])
  output = agent.apply(theta, observation, jnp.ones(3, bool))
  np.testing.assert_array_equal(output.y_logits, theta[observation][..., 3:])


@pytest.mark.parametrize('spec, config', [
    (specs.DiscreteArray(7), config_lib.AgentConfig()), (PLANES, CONV)])
def test_masked_actions_have_probability_zero(spec, config):
  """Other actions have the probabilities of a softmax over them alone."""
  agent = agent_networks.make_agent(config, spec, 4, 5, 0.1)
  theta = agent.init(jax.random.PRNGKey(0))
  theta = jax.tree_util.tree_map(
      lambda x: x + jax.random.normal(jax.random.PRNGKey(1), x.shape), theta)
  observation = (jnp.array([3, 5]) if spec.shape == () else
                 make_planes()[0, :2])
  mask = jnp.array([True, False, True, False])
  masked = agent.apply(theta, observation, mask)
  whole = agent.apply(theta, observation, jnp.ones(4, bool))
  pi = np.asarray(jax.nn.softmax(masked.logits))
  assert not pi[:, [1, 3]].any()
  np.testing.assert_allclose(
      pi[:, [0, 2]], jax.nn.softmax(whole.logits[:, jnp.array([0, 2])]),
      rtol=1e-5)
  np.testing.assert_array_equal(masked.y_logits, whole.y_logits)


@pytest.mark.parametrize('spec, config, message', [
    (PLANES, config_lib.AgentConfig(), 'a table needs'),
    (specs.DiscreteArray(7), CONV, 'a network needs')])
def test_agents_that_do_not_fit_the_observations_are_refused(
    spec, config, message):
  with pytest.raises(ValueError, match=message):
    agent_networks.make_network(config, spec, 3)
