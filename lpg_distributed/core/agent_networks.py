"""Agents (Table 3): theta maps a state to a policy and a prediction vector."""

from typing import Callable, Mapping, NamedTuple

import chex
from dm_env import specs
import haiku as hk
import jax
from jax import ad_checkpoint
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import columns
from lpg_distributed.core import convolution
from lpg_distributed.core import distributions

# Name of the rows that an agent reads from its table. A `jax.checkpoint` that
# saves this name need not save the table, which is larger.
ROWS = 'table_rows'


class Network(NamedTuple):
  """Pure functions of one agent's network, from states to output rows."""
  init: Callable[[chex.PRNGKey], types.Params]
  apply: Callable[[types.Params, chex.Array], chex.Array]  # [..., outputs]


class _ConvolutionWeights(hk.Module):
  """Parameters of a 3x3 layer, initialised as Haiku does a linear layer.

  `convolution.convolve` describes their layout.
  """

  def __call__(self, channels: int, filters: int):
    fan_in = 9 * channels
    return (hk.get_parameter(
        'w', (fan_in, filters),
        init=hk.initializers.TruncatedNormal(fan_in ** -0.5)),
            hk.get_parameter('b', (filters,), init=jnp.zeros))


def _torso(config: config_lib.AgentConfig, observation: chex.Array):
  """Maps [N, ...] observations to [N, features]; all layers use ReLU (B.1)."""
  x = observation.astype(jnp.float32)
  if config.conv:
    channels = (x.shape[-1],) + config.conv
    x = convolution.convolve(observation, [
        _ConvolutionWeights(name=f'conv_{i}')(channels[i], filters)
        for i, filters in enumerate(config.conv)])
  x = x.reshape(x.shape[0], -1)
  for i, units in enumerate(config.dense):
    x = convolution.relu(hk.Linear(units, name=f'dense_{i}')(x))
  return x


def make_network(config: config_lib.AgentConfig,
                 observation_spec: specs.Array,
                 num_outputs: int,
                 table_stddev: chex.ArrayTree = 0.) -> Network:
  """Builds a table or a network with `num_outputs` linear outputs.

  Args:
    config: a row of Table 3.
    observation_spec: `DiscreteArray` for a table, `BoundedArray` otherwise.
    num_outputs: width of the output rows.
    table_stddev: standard deviation of a new table's entries, broadcast over
      [S, num_outputs]. Networks use Haiku's default initialisation.

  Raises:
    ValueError: `config` describes a table, but observations are not state
      indices; or a network, but observations are state indices.
  """
  if config.is_table:
    if not isinstance(observation_spec, specs.DiscreteArray):
      raise ValueError('a table needs a state index as observation; allowed '
                       'here: an agent with conv or dense layers')
    shape = (int(observation_spec.num_values), num_outputs)
    return Network(
        init=lambda key: jax.random.normal(key, shape) * table_stddev,
        apply=lambda table, observation: ad_checkpoint.checkpoint_name(
            table[observation], ROWS))

  def forward(observation):
    return hk.Linear(num_outputs, name='head')(_torso(config, observation))

  transformed = hk.without_apply_rng(hk.transform(forward))
  if isinstance(observation_spec, specs.DiscreteArray):
    raise ValueError('a network needs planes or bits as observation; allowed '
                     'here: a table (no conv, no dense layers)')
  example = jnp.zeros((1,) + tuple(observation_spec.shape))
  num_axes = example.ndim - 1

  def apply(params, observation):
    batch = observation.shape[:observation.ndim - num_axes]
    flat = observation.reshape((-1,) + example.shape[1:])
    return transformed.apply(params, flat).reshape(*batch, num_outputs)

  return Network(init=lambda key: transformed.init(key, example), apply=apply)


def width(theta: types.Params) -> int:
  """Number of outputs of the table or network with parameters `theta`."""
  return (theta['head']['b'] if isinstance(theta, Mapping) else theta).shape[-1]


class Agent(NamedTuple):
  """An agent as pure functions of its parameters theta."""
  init: Callable[[chex.PRNGKey], types.Params]
  # (theta, observation [..., *shape], action_mask [A]) -> AgentOutput [...]
  apply: Callable[[types.Params, chex.Array, chex.Array], types.AgentOutput]


def make_agent(config: config_lib.AgentConfig,
               observation_spec: specs.Array,
               num_actions: int,
               num_predictions: int,
               y_table_stddev: float) -> Agent:
  """Builds the agent of one environment kind.

  A table starts with a uniform policy. Its predictions start at random, with
  standard deviation `y_table_stddev`: from equal predictions the rule could
  never tell the entries of y apart.
  """
  stddev = jnp.concatenate([jnp.zeros(num_actions),
                            jnp.full((num_predictions,), y_table_stddev)])
  network = make_network(config, observation_spec,
                         num_actions + num_predictions, stddev)

  def apply(theta, observation, action_mask):
    chex.assert_shape(action_mask, (num_actions,))
    rows = network.apply(theta, observation)
    logits, *y_logits = columns.split(
        rows, tuple(n for n in (num_actions, num_predictions) if n))
    logits = jnp.where(action_mask.reshape((1,) * (rows.ndim - 1) + (-1,)),
                       logits, distributions.MASKED_LOGIT)
    return types.AgentOutput(logits, *y_logits)

  return Agent(network.init, apply)
