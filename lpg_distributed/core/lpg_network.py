"""The Learned Policy Gradient: the update rule, parameterised by eta (B.1).

A backward LSTM reads x_t = [r_t, d_t, gamma, pi(a_t|s_t), phi(y(s_t)),
phi(y(s_{t+1}))] and says how the agent should change: `pi_hat`, a real number
per step, and `y_hat`, a categorical distribution per step. It never sees
observations, actions or values, so it fits any agent.

`apply` is the fast formulation, `apply_reference` the plain Haiku one; they
share eta and agree to float precision.
"""

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import backward_lstm

Eta = types.Params

_PROBABILITY = 3  # of the LSTM's inputs, pi(a_t|s_t)


class LPG(hk.Module):
  """The rule as Haiku modules; it defines eta and the reference result."""

  def __init__(self, config: config_lib.RuleConfig, name: str = 'lpg'):
    super().__init__(name=name)
    self._config = config

  def __call__(self, inputs: types.RuleInput) -> types.LPGTargets:
    """Maps [T, N] inputs to targets; see `apply`."""
    phi = hk.nets.MLP([self._config.embedding_size, 1], name='phi')
    lstm = hk.LSTM(self._config.lstm_size, name='lstm')
    x = _lstm_input(inputs, phi(inputs.y)[..., 0])  # [T, N, 6]

    def step(xs, state):
      x_t, discount_t = xs
      state = jax.tree_util.tree_map(lambda s: s * discount_t[:, None], state)
      return lstm(x_t, state)

    state = lstm.initial_state(x.shape[1])
    h, _ = hk.dynamic_unroll(step, (x, inputs.discount_t), state, reverse=True)
    pi_hat = hk.Linear(1, name='pi_hat')(h)[..., 0]
    if self._config.kind == 'lpg_v':
      return types.LPGTargets(pi_hat, None)
    y_hat = hk.Linear(self._config.num_predictions, name='y_hat')
    return types.LPGTargets(pi_hat, y_hat(h))


def _lstm_input(inputs: types.RuleInput, phi: chex.Array) -> chex.Array:
  """Stacks x_t, [T, N, 6]; `phi` is [T+1, N]."""
  # Nothing is predicted across the end of an episode.
  phi_t = phi[1:] * inputs.discount_t
  return jnp.stack([inputs.reward, inputs.discount_t, inputs.gamma,
                    inputs.action_probability, phi[:-1], phi_t], axis=-1)


def _transformed(config: config_lib.RuleConfig) -> hk.Transformed:
  return hk.without_apply_rng(hk.transform(lambda x: LPG(config)(x)))


def init(config: config_lib.RuleConfig, key: chex.PRNGKey) -> Eta:
  """Draws eta: about 278k parameters at the paper's size.

  That of an `lpg_v` has the same names, but a phi with one input, V(s), and no
  head for y_hat.
  """
  scalar = jnp.zeros((1, 1))
  width = 1 if config.kind == 'lpg_v' else config.num_predictions
  inputs = types.RuleInput(scalar, scalar, scalar, scalar,
                           jnp.zeros((2, 1, width)))
  # One program, where Haiku would compile each operation by itself.
  return jax.jit(_transformed(config).init)(key, inputs)


def apply_reference(eta: Eta, config: config_lib.RuleConfig,
                    inputs: types.RuleInput) -> types.LPGTargets:
  """`apply` for [T, N] inputs, written with Haiku's modules."""
  return _transformed(config).apply(eta, inputs)


def embed(eta: Eta, y: chex.Array) -> chex.Array:
  """phi(y) of B.1, [...], of predictions [..., M]."""
  hidden, out = eta['lpg/phi/~/linear_0'], eta['lpg/phi/~/linear_1']
  phi = jax.nn.relu(y @ hidden['w'] + hidden['b'])
  return phi @ out['w'][:, 0] + out['b']


def hold_phi(eta: Eta, value: chex.Numeric) -> Eta:
  """A rule to which phi(y) is `value`, whatever the agent predicts."""
  out = eta['lpg/phi/~/linear_1']
  return {**eta, 'lpg/phi/~/linear_1': {
      'w': jnp.zeros_like(out['w']), 'b': jnp.full_like(out['b'], value)}}


def hold_probability(eta: Eta, value: chex.Numeric) -> Eta:
  """A rule to which pi(a|s) is `value`, whatever the agent does."""
  lstm = eta['lpg/lstm/linear']
  row = lstm['w'][_PROBABILITY]
  return {**eta, 'lpg/lstm/linear': {
      'w': lstm['w'].at[_PROBABILITY].set(0.), 'b': lstm['b'] + value * row}}


def _hidden(eta: Eta, inputs: types.RuleInput) -> chex.Array:
  """The LSTM's outputs, [T, N, H], N the product of all batch axes."""
  chex.assert_equal_shape(inputs[:4])
  num_steps, *batch = inputs.reward.shape
  num_predictions = inputs.y.shape[-1]
  chex.assert_shape(inputs.y, (num_steps + 1, *batch, num_predictions))
  inputs = types.RuleInput(
      *(x.reshape(num_steps, -1) for x in inputs[:4]),
      inputs.y.reshape(num_steps + 1, -1, num_predictions))
  x = _lstm_input(inputs, embed(eta, inputs.y))
  lstm = eta['lpg/lstm/linear']
  return backward_lstm.unroll(lstm['w'], lstm['b'], x, inputs.discount_t)


def apply(eta: Eta, inputs: types.RuleInput) -> types.LPGTargets:
  """Computes the targets of a batch of trajectories (Section 3.1, B.1).

  Args:
    eta: the rule's parameters, from `init` or a file.
    inputs: leaves [T, ...] and `y` [T+1, ..., M], sums to 1 over M. Any batch
      axes may stand between T and M: they are flattened, so that lifetimes
      and environments become rows of the same matrix product.

  Returns:
    `pi_hat` [T, ...] and `y_hat_logits` [T, ..., M].
  """
  h = _hidden(eta, inputs)
  heads = [eta['lpg/pi_hat'], eta['lpg/y_hat']]
  w = jnp.concatenate([head['w'] for head in heads], axis=1)  # [H, 1+M]
  b = jnp.concatenate([head['b'] for head in heads])
  targets = h @ w + b
  num_steps, *batch = inputs.reward.shape
  num_predictions = inputs.y.shape[-1]
  return types.LPGTargets(
      pi_hat=targets[..., 0].reshape(num_steps, *batch),
      y_hat_logits=targets[..., 1:].reshape(num_steps, *batch,
                                            num_predictions))


def apply_policy(eta: Eta, inputs: types.RuleInput) -> chex.Array:
  """`pi_hat` alone, [T, ...], of a rule of kind `lpg_v`.

  Args:
    eta: without the head for y_hat, and with a phi of one input.
    inputs: as in `apply`, but `y` is V(s), [T+1, ..., 1].
  """
  head = eta['lpg/pi_hat']
  pi_hat = _hidden(eta, inputs) @ head['w'] + head['b']
  return pi_hat.reshape(inputs.reward.shape)
