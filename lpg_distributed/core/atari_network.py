"""The network of Table 4, C(32)-C(64)-C(64)-D(512), fast on a CPU.

Filters of 8x8, 4x4 and 3x3 with strides 4, 2 and 1 and no padding, as in Mnih
et al. (2015); the paper gives only their numbers. A convolution with stride s
over pixels equals one with stride 1 over blocks of s x s pixels laid into the
channels. The parameters are those of the plain form, which is kept as
`apply_reference`; the blocks are twice as fast in the first layer.
"""

import math

import chex
from dm_env import specs
import jax
import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.core import agent_networks

_FILTERS = (32, 64, 64)
_KERNELS = (8, 4, 3)
_STRIDES = (4, 2, 1)
_UNITS = 512
_MAX_PIXEL = 255.


def _convolve(x: chex.Array, w: chex.Array, stride: int = 1) -> chex.Array:
  return jax.lax.conv_general_dilated(
      x, w, (stride, stride), 'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _out_size(size: int) -> int:
  for kernel, stride in zip(_KERNELS, _STRIDES):
    size = (size - kernel) // stride + 1
  return size


def _init(key: chex.PRNGKey, num_channels: int, num_features: int,
          num_outputs: int) -> types.Params:
  """Normal weights, cut at two deviations of 1/sqrt(inputs); biases of 0."""
  shapes = []
  for filters, kernel in zip(_FILTERS, _KERNELS):
    shapes.append((kernel, kernel, num_channels, filters))
    num_channels = filters
  shapes += [(num_features, _UNITS), (_UNITS, num_outputs)]
  names = [f'conv_{i}' for i in range(len(_FILTERS))] + ['dense', 'head']

  def layer(key, shape):
    scale = 1. / math.sqrt(math.prod(shape[:-1]))
    return {'w': scale * jax.random.truncated_normal(key, -2., 2., shape),
            'b': jnp.zeros(shape[-1:])}

  keys = jax.random.split(key, len(names))
  return {name: layer(key, shape)
          for name, key, shape in zip(names, keys, shapes)}


def _dense(params: types.Params, x: chex.Array) -> chex.Array:
  x = x.reshape(x.shape[0], -1)
  x = jax.nn.relu(x @ params['dense']['w'] + params['dense']['b'])
  return x @ params['head']['w'] + params['head']['b']


def _layer(x: chex.Array, w: chex.Array, b: chex.Array,
           stride: int = 1) -> chex.Array:
  return jax.nn.relu(_convolve(x, w, stride) + b)


def _apply(params: types.Params, frames: chex.Array) -> chex.Array:
  """[N, C, H, W] uint8 to [N, outputs]."""
  n, c, height, width = frames.shape
  first, second, third = (params[f'conv_{i}'] for i in range(3))
  # Into channels in the order (frame, row, column): of a row's bytes four stay
  # together, and it is moved as bytes.
  x = frames.reshape(n, c, height // 4, 4, width // 4, 4)
  x = x.transpose(0, 2, 4, 1, 3, 5)
  x = x.reshape(n, height // 4, width // 4, 16 * c).astype(jnp.float32)
  w = first['w'] / _MAX_PIXEL  # Fewer weights than pixels.
  w = w.reshape(2, 4, 2, 4, c, -1).transpose(0, 2, 4, 1, 3, 5)
  x = _layer(x, w.reshape(2, 2, 16 * c, -1), first['b'])
  _, height, width, c = x.shape
  x = x.reshape(n, height // 2, 2, width // 2, 2, c)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // 2, width // 2, 4 * c)
  w = second['w'].reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5)
  x = _layer(x, w.reshape(2, 2, 4 * c, -1), second['b'])
  return _dense(params, _layer(x, third['w'], third['b']))


def apply_reference(params: types.Params, frames: chex.Array) -> chex.Array:
  """The plain form of what the network computes; [N, C, H, W] uint8."""
  x = frames.transpose(0, 2, 3, 1).astype(jnp.float32) / _MAX_PIXEL
  for i, stride in enumerate(_STRIDES):
    layer = params[f'conv_{i}']
    x = _layer(x, layer['w'], layer['b'], stride)
  return _dense(params, x)


def make_network(observation_spec: specs.Array,
                 num_outputs: int) -> agent_networks.Network:
  """The torso and one linear layer with all of an agent's outputs.

  Do not differentiate it inside `lax.scan`: XLA's CPU backend has no fast
  convolution there (19 ms a frame instead of 1).

  Args:
    observation_spec: [C, H, W] grey levels from 0 to 255; 84 pixels a side,
      or any other number that is 4 more than a multiple of 8, from 36.
    num_outputs: width of the output rows.
  """
  shape = tuple(observation_spec.shape)
  if len(shape) != 3 or any(n % 8 != 4 or n < 36 for n in shape[1:]):
    raise ValueError(f'observations have shape {shape}; allowed: [C, H, W], H '
                     'and W 4 more than a multiple of 8, from 36')
  num_features = _FILTERS[-1] * _out_size(shape[1]) * _out_size(shape[2])

  def apply(params, frames):
    batch = frames.shape[:-3]
    return _apply(params, frames.reshape((-1,) + shape)).reshape(
        *batch, num_outputs)

  return agent_networks.Network(
      init=lambda key: _init(key, shape[0], num_features, num_outputs),
      apply=apply)
