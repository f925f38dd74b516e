"""The network of Table 4, C(32)-C(64)-C(64)-D(512), fast on a CPU.

The paper gives only the numbers of filters. Their sizes are those of Mnih et
al. (2015): 8x8, 4x4 and 3x3 with strides 4, 2 and 1, without padding.

A convolution with stride s over pixels equals one with stride 1 over blocks of
s x s pixels, whose pixels become channels. In the first layer the blocks are
twice as fast. The parameters are those of the plain form, `apply_reference`.
Learning reuses the forward pass that acting computed (`staged_network`).
"""

import math

import chex
from dm_env import specs
import jax
import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.core import staged_network

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
  """Draws weights from a normal distribution with deviation 1/sqrt(inputs).

  It is truncated at two deviations; biases are 0.
  """
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


def _blocks(x: chex.Array, size: int) -> chex.Array:
  """Reshapes [N, H, W, C] to [N, H/size, W/size, size * size * C]."""
  n, height, width, c = x.shape
  x = x.reshape(n, height // size, size, width // size, size, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
      n, height // size, width // size, size * size * c)


def _pixel_blocks(frames: chex.Array) -> chex.Array:
  """Reshapes [N, C, H, W] uint8 to [N, H/4, W/4, 16 * C] floats."""
  n, c, height, width = frames.shape
  # Channels in the order (frame, row, column): four neighbouring bytes of a row
  # stay together. The conversion to floats comes last, so that bytes are moved.
  x = frames.reshape(n, c, height // 4, 4, width // 4, 4)
  x = x.transpose(0, 2, 4, 1, 3, 5)
  return x.reshape(n, height // 4, width // 4, 16 * c).astype(jnp.float32)


# The layers without their ReLU. Each is affine in its input and linear in its
# parameters.


def _first(layer: types.Params, x: chex.Array) -> chex.Array:
  c = x.shape[-1] // 16
  w = layer['w'] / _MAX_PIXEL  # Cheaper than to divide the pixels.
  w = w.reshape(2, 4, 2, 4, c, -1).transpose(0, 2, 4, 1, 3, 5)
  return _convolve(x, w.reshape(2, 2, 16 * c, -1)) + layer['b']


def _second(layer: types.Params, x: chex.Array) -> chex.Array:
  c = x.shape[-1]
  w = layer['w'].reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5)
  return _convolve(_blocks(x, 2), w.reshape(2, 2, 4 * c, -1)) + layer['b']


def _third(layer: types.Params, x: chex.Array) -> chex.Array:
  return _convolve(x, layer['w']) + layer['b']


def _linear(layer: types.Params, x: chex.Array) -> chex.Array:
  return x.reshape(x.shape[0], -1) @ layer['w'] + layer['b']


_LAYERS = (('conv_0', _first), ('conv_1', _second), ('conv_2', _third),
           ('dense', _linear), ('head', _linear))


def _forward(params: types.Params, frames: chex.Array
             ) -> tuple[chex.Array, list[chex.Array]]:
  """Maps [N, C, H, W] uint8 to [N, outputs] and the inputs of layers 2 to 5."""
  x, inputs = _pixel_blocks(frames), []
  for name, layer in _LAYERS[:-1]:
    x = jax.nn.relu(layer(params[name], x))
    inputs.append(x)
  name, head = _LAYERS[-1]
  return head(params[name], x), inputs


def _backward(params: types.Params, frames: chex.Array,
              activations: list[chex.Array], d_rows: chex.Array
              ) -> types.Params:
  """Computes the parameters' gradient from `d_rows`, the cotangent of the rows.

  `activations` are those that `_forward` returned.
  """
  gradient, d_out = {}, d_rows
  inputs = [None] + list(activations)
  for i, (name, layer) in reversed(list(enumerate(_LAYERS))):
    if not i:  # The gradient of the pixels is not needed.
      x = _pixel_blocks(frames)
      _, pullback = jax.vjp(lambda p: layer(p, x), params[name])
      (gradient[name],) = pullback(d_out)
    else:
      # The layer's output is not computed again: XLA drops it, since the
      # pullback of an affine layer does not need it.
      _, pullback = jax.vjp(layer, params[name], inputs[i])
      gradient[name], d_in = pullback(d_out)
      d_out = jnp.where(inputs[i] > 0., d_in, 0.)
  return gradient


def apply_reference(params: types.Params, frames: chex.Array) -> chex.Array:
  """The network in its plain form: [N, C, H, W] uint8 to [N, outputs]."""
  x = frames.transpose(0, 2, 3, 1).astype(jnp.float32) / _MAX_PIXEL
  for i, stride in enumerate(_STRIDES):
    layer = params[f'conv_{i}']
    x = jax.nn.relu(_convolve(x, layer['w'], stride) + layer['b'])
  return _linear(params['head'], jax.nn.relu(_linear(params['dense'], x)))


def make_network(observation_spec: specs.Array,
                 num_outputs: int) -> staged_network.StagedNetwork:
  """Builds the network for `observation_spec`; see `make_network_of_shape`."""
  return make_network_of_shape(tuple(observation_spec.shape), num_outputs)


def make_network_of_shape(shape: tuple[int, ...], num_outputs: int
                          ) -> staged_network.StagedNetwork:
  """Builds the torso and one linear layer with all outputs of an agent.

  Do not differentiate it inside `lax.scan`: there XLA's CPU backend has no fast
  convolution (19 ms per frame instead of 1 ms).

  Args:
    shape: [C, H, W] of grey levels from 0 to 255. H and W are 84, or any other
      number that is 4 more than a multiple of 8, at least 36.
    num_outputs: width of the output rows.

  Raises:
    ValueError: `shape` is not allowed.
  """
  if len(shape) != 3 or any(n % 8 != 4 or n < 36 for n in shape[1:]):
    raise ValueError(f'observations have shape {shape}; allowed: [C, H, W], H '
                     'and W 4 more than a multiple of 8, from 36')
  num_features = _FILTERS[-1] * _out_size(shape[1]) * _out_size(shape[2])

  def apply(params, frames):
    batch = frames.shape[:-3]
    rows, _ = _forward(params, frames.reshape((-1,) + shape))
    return rows.reshape(*batch, num_outputs)

  return staged_network.StagedNetwork(
      init=lambda key: _init(key, shape[0], num_features, num_outputs),
      apply=apply, forward=_forward, backward=_backward)
