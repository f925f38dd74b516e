"""Agents: theta, from a state to a policy and a prediction vector (Table 3)."""

from typing import Callable, NamedTuple

import chex
from dm_env import specs
import haiku as hk
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types

# Takes the place of minus infinity: its softmax is exactly 0, and 0 times its
# logarithm is 0 and not NaN.
MASKED_LOGIT = -1e9


class Network(NamedTuple):
  """A pair of pure functions for one agent; batch of states in, rows out."""
  init: Callable[[chex.PRNGKey], types.Params]
  apply: Callable[[types.Params, chex.Array], chex.Array]  # [..., outputs]


def _row_matrix(w: chex.Array, width: int) -> chex.Array:
  """[9C, F], a 3x3 kernel, to [3 * W * C, W * F]: three rows to one."""
  filters = w.shape[-1]
  w = w.reshape(3, 3, -1, filters)
  # By column of the kernel: which column goes into which.
  columns = jnp.stack([jnp.eye(width, k=1 - j) for j in range(3)])
  return jnp.einsum('jio,kjcf->kicof', columns, w).reshape(
      -1, width * filters)


def convolve(x: chex.Array, w: chex.Array, b: chex.Array) -> chex.Array:
  """A 3x3 convolution of [N, H, W * C] with w [9C, F], zero-padded.

  Each agent has its own weights, and `lax.conv` under `vmap` over weights is
  many times slower on a CPU. As a matrix product of whole rows: against a
  product with patches there are three to four times as many multiplications,
  most by zero, but a third of the data, and data is what takes the time.
  """
  num_rows, channels = x.shape[1], w.shape[0] // 9
  width = x.shape[2] // channels
  padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
  # The bias as one more row: added afterwards, XLA's loop over it is slow.
  rows = jnp.concatenate(
      [padded[:, i:i + num_rows] for i in range(3)]
      + [jnp.ones_like(x[..., :1])], axis=-1)
  return rows @ jnp.concatenate(
      [_row_matrix(w, width), jnp.tile(b, width)[None]])


class _Convolution(hk.Module):
  """`convolve` with parameters that start as those of a linear layer."""

  def __init__(self, filters: int, channels: int, name: str):
    super().__init__(name=name)
    self._shape = (9 * channels, filters)

  def __call__(self, x: chex.Array) -> chex.Array:
    fan_in, filters = self._shape
    w = hk.get_parameter(
        'w', self._shape,
        init=hk.initializers.TruncatedNormal(fan_in ** -0.5))
    b = hk.get_parameter('b', (filters,), init=jnp.zeros)
    return convolve(x, w, b)


def _torso(config: config_lib.AgentConfig, observation: chex.Array):
  """[N, ...] observations to [N, features], ReLU throughout (B.1)."""
  x = observation.astype(jnp.float32)
  if config.conv:
    num, height, _, channels = x.shape
    x = x.reshape(num, height, -1)
    for i, filters in enumerate(config.conv):
      x = jax.nn.relu(_Convolution(filters, channels, f'conv_{i}')(x))
      channels = filters
  x = x.reshape(x.shape[0], -1)
  for i, units in enumerate(config.dense):
    x = jax.nn.relu(hk.Linear(units, name=f'dense_{i}')(x))
  return x


def make_network(config: config_lib.AgentConfig,
                 observation_spec: specs.Array,
                 num_outputs: int,
                 table_stddev: chex.ArrayTree = 0.) -> Network:
  """Builds a table or a network with `num_outputs` linear outputs.

  Args:
    config: a row of Table 3.
    observation_spec: `DiscreteArray` for a table, `BoundedArray` else.
    num_outputs: width of the output rows.
    table_stddev: standard deviation of a new table's entries, broadcast over
      [S, num_outputs]; networks start from Haiku's default.

  Raises:
    ValueError: a table for an environment without a state index.
  """
  if config.is_table:
    if not isinstance(observation_spec, specs.DiscreteArray):
      raise ValueError('a table needs a state index as observation; allowed '
                       'here: an agent with conv or dense layers')
    shape = (int(observation_spec.num_values), num_outputs)
    return Network(
        init=lambda key: jax.random.normal(key, shape) * table_stddev,
        apply=lambda table, observation: table[observation])

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

  A table's policy starts uniform; its predictions start apart from each other,
  since equal ones could never be told apart by the rule.
  """
  stddev = jnp.concatenate([jnp.zeros(num_actions),
                            jnp.full((num_predictions,), y_table_stddev)])
  network = make_network(config, observation_spec,
                         num_actions + num_predictions, stddev)

  def apply(theta, observation, action_mask):
    chex.assert_shape(action_mask, (num_actions,))
    rows = network.apply(theta, observation)
    logits = jnp.where(action_mask.reshape((1,) * (rows.ndim - 1) + (-1,)),
                       rows[..., :num_actions], MASKED_LOGIT)
    return types.AgentOutput(logits, rows[..., num_actions:])

  return Agent(network.init, apply)
