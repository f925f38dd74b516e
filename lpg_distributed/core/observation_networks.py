"""Chooses an agent's network by the shape of its observations.

| observation | network | like |
|---|---|---|
| [C, H, W] frames of at least 36 pixels a side | that of Table 4 | Atari |
| [H, W, C] planes, up to 20 cells a side | C(16)-D(32), 3x3 | MinAtar |
| a state index | its one-hot row, D(64) | |
| anything else | flattened, D(64)-D(64) | CartPole, Catch |
"""

import math
from typing import Any

from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core import agent_networks
from lpg_distributed.core import atari_network

# The row of Table 3 for grid worlds that are observed as planes.
PLANES = config_lib.AgentConfig(conv=(16,), dense=(32,), optimiser='adam')
INDEX = config_lib.AgentConfig(dense=(64,), optimiser='adam')
VECTOR = config_lib.AgentConfig(dense=(64, 64), optimiser='adam')
_MAX_CELLS = 20  # largest height and width of planes
_MAX_FEATURES = 50_000  # largest size of a flattened observation


def kind(spec: specs.Array) -> str:
  """Returns the class of observation: `frames`, `planes`, `index`, `vector`.

  Raises:
    ValueError: there is no network for `spec`; the message is one line.
  """
  if isinstance(spec, specs.DiscreteArray):
    return 'index'
  shape = tuple(spec.shape)
  if len(shape) == 3:
    if all(n % 8 == 4 and n >= 36 for n in shape[1:]):
      return 'frames'
    if max(shape[:2]) <= _MAX_CELLS:
      return 'planes'
    raise ValueError(
        f'observations have shape {shape}; allowed: [C, H, W] with H and W 4 '
        'more than a multiple of 8, from 36 (84 as on Atari), or [H, W, C] '
        f'with up to {_MAX_CELLS} cells a side, or fewer axes')
  if math.prod(shape) > _MAX_FEATURES:
    raise ValueError(f'observations have shape {shape}; allowed: up to '
                     f'{_MAX_FEATURES} numbers, or images')
  return 'vector'


def _scale(spec: specs.Array) -> float:
  """Returns the divisor of observations: 255 for pixels (0 to 255), else 1."""
  is_pixels = (spec.dtype.kind in 'ui' and isinstance(spec, specs.BoundedArray)
               and np.all(spec.minimum == 0) and np.all(spec.maximum == 255))
  return 255. if is_pixels else 1.


def make_network(spec: specs.Array, num_outputs: int) -> Any:
  """Builds the network for observations of `spec`.

  Raises:
    ValueError: there is no network for `spec`; see `kind`.
  """
  found = kind(spec)
  if found == 'frames':
    return atari_network.make_network(spec, num_outputs)
  if found == 'index':
    num_states = int(spec.num_values)
    inner = agent_networks.make_network(
        INDEX, specs.BoundedArray((num_states,), np.float32, 0., 1.),
        num_outputs)
    prepare = lambda observation: jax.nn.one_hot(observation, num_states)
  else:
    # A scalar becomes a vector of size 1.
    shape = tuple(spec.shape) or (1,)
    inner = agent_networks.make_network(
        PLANES if found == 'planes' else VECTOR,
        specs.BoundedArray(shape, np.float32, -np.inf, np.inf), num_outputs)
    scale = _scale(spec)

    def prepare(observation):
      x = jnp.asarray(observation, jnp.float32)
      return (x / scale if scale > 1. else x).reshape(
          x.shape[:x.ndim - len(spec.shape)] + shape)

  return agent_networks.Network(
      inner.init,
      lambda params, observation: inner.apply(params, prepare(observation)))
