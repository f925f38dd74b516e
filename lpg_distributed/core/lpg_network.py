"""The network of the Learned Policy Gradient, with parameters eta (B.1).

A backward LSTM reads x_t = [r_t, d_t, gamma, pi(a_t|s_t), phi(y(s_t)),
phi(y(s_{t+1}))]. Its outputs are the targets of the agent's update: `pi_hat`, a
real number per step, and `y_hat`, a categorical distribution per step. It never
sees observations, actions or values, so it fits any agent.

`apply` is the fast implementation, `apply_reference` a plain one in Haiku. They
share eta and agree to float precision.
"""

from typing import Any, Mapping, NamedTuple, Optional

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import backward_lstm
from lpg_distributed.core import columns
from lpg_distributed.core import rule_inputs

Eta = types.Params


class Widths(NamedTuple):
  """Sizes of the network that depend on the kind of rule."""
  y: int  # number of inputs of phi
  y_hat: int  # width of the head for y_hat; 0: no such head


class LPG(hk.Module):
  """The network as Haiku modules; defines eta and the reference result."""

  def __init__(self, config: config_lib.RuleConfig, num_y_hat: int,
               name: str = 'lpg'):
    super().__init__(name=name)
    self._config, self._num_y_hat = config, num_y_hat

  def __call__(self, inputs: rule_inputs.RuleInput) -> types.LPGTargets:
    """Maps [T, N] inputs to targets; see `apply`."""
    phi = hk.nets.MLP([self._config.embedding_size, 1], name='phi')
    lstm = hk.LSTM(self._config.lstm_size, name='lstm')
    x = _lstm_input(inputs, phi(inputs.y)[..., 0])  # [T, N, I]

    def step(xs, state):
      x_t, discount_t = xs
      state = jax.tree_util.tree_map(lambda s: s * discount_t[:, None], state)
      return lstm(x_t, state)

    state = lstm.initial_state(x.shape[1])
    h, _ = hk.dynamic_unroll(step, (x, inputs.discount_t), state, reverse=True)
    pi_hat = hk.Linear(1, name='pi_hat')(h)[..., 0]
    if not self._num_y_hat:
      return types.LPGTargets(pi_hat, None)
    return types.LPGTargets(pi_hat,
                            hk.Linear(self._num_y_hat, name='y_hat')(h))


def _lstm_input(inputs: rule_inputs.RuleInput, phi: chex.Array) -> chex.Array:
  """Stacks x_t, [T, N, I]; `phi` is [T+1, N].

  I is 6, and 8 for a rule that sees the age.
  """
  # phi(y(s_{t+1})) is zeroed where step t ended the episode.
  phi_next = phi[1:] * inputs.discount_t
  return jnp.stack([*rule_inputs.columns(inputs), phi[:-1], phi_next], axis=-1)


def _transformed(config: config_lib.RuleConfig,
                 num_y_hat: int) -> hk.Transformed:
  return hk.without_apply_rng(
      hk.transform(lambda x: LPG(config, num_y_hat)(x)))


def init(config: config_lib.RuleConfig, widths: Widths,
         key: chex.PRNGKey) -> Eta:
  """Draws eta; it has about 278k parameters at the paper's size."""
  scalar = jnp.zeros((1, 1))
  inputs = rule_inputs.RuleInput(
      y=jnp.zeros((2, 1, widths.y)),
      **dict.fromkeys(rule_inputs.names(config), scalar))
  # Under `jit`, since Haiku would compile each operation by itself.
  return jax.jit(_transformed(config, widths.y_hat).init)(key, inputs)


def apply_reference(eta: Eta, config: config_lib.RuleConfig,
                    inputs: rule_inputs.RuleInput) -> types.LPGTargets:
  """Computes what `apply` does, on [T, N] inputs, with Haiku's modules."""
  num_y_hat = eta['lpg/y_hat']['b'].size if 'lpg/y_hat' in eta else 0
  return _transformed(config, num_y_hat).apply(eta, inputs)


def embed(eta: Eta, y: chex.Array) -> chex.Array:
  """Computes phi(y) of B.1: predictions [..., M] to [...]."""
  hidden, out = eta['lpg/phi/~/linear_0'], eta['lpg/phi/~/linear_1']
  phi = jax.nn.relu(y @ hidden['w'] + hidden['b'])
  return phi @ out['w'][:, 0] + out['b']


def widen(eta: Eta, width: int, padding: float) -> Optional[Eta]:
  """Returns an eta that reads and writes predictions of another width.

  Args:
    eta: parameters for predictions of M columns. For the parameters of another
      network the result is None.
    width: number of columns, at least M. The rule ignores the inputs above M.
    padding: value of the outputs `y_hat_logits` above M.
  """
  if not is_eta(eta):
    return None
  hidden, head = eta['lpg/phi/~/linear_0'], eta['lpg/y_hat']
  after = (0, width - head['b'].size)
  return {
      **eta,
      'lpg/phi/~/linear_0': {**hidden,
                             'w': jnp.pad(hidden['w'], (after, (0, 0)))},
      'lpg/y_hat': {
          'w': jnp.pad(head['w'], ((0, 0), after)),
          'b': jnp.pad(head['b'], after, constant_values=padding)}}


def is_eta(eta: Any) -> bool:
  """Whether a tree is of this network; `embed` and `hold_*` need that.

  A rule may have a network of its own.
  """
  return isinstance(eta, Mapping) and all(
      f'lpg/{name}' in eta for name in ('phi/~/linear_1', 'lstm/linear'))


def hold_phi(eta: Eta, value: chex.Numeric) -> Eta:
  """Returns an eta for which phi(y) is `value` for all predictions y."""
  out = eta['lpg/phi/~/linear_1']
  return {**eta, 'lpg/phi/~/linear_1': {
      'w': jnp.zeros_like(out['w']), 'b': jnp.full_like(out['b'], value)}}


def hold_input(eta: Eta, name: str, value: chex.Numeric) -> Eta:
  """Returns an eta whose LSTM reads `value` in place of the input `name`."""
  index = rule_inputs.index(name)
  lstm = eta['lpg/lstm/linear']
  row = lstm['w'][index]
  return {**eta, 'lpg/lstm/linear': {
      'w': lstm['w'].at[index].set(0.), 'b': lstm['b'] + value * row}}


def add_age(eta: Eta) -> Eta:
  """Returns an eta that also reads the inputs of the age, with weights 0."""
  first, lstm = len(rule_inputs.INPUTS), eta['lpg/lstm/linear']
  rows = [first] * len(rule_inputs.AGE_INPUTS)
  return {**eta, 'lpg/lstm/linear': {
      **lstm, 'w': jnp.insert(lstm['w'], jnp.array(rows), 0., axis=0)}}


def apply(eta: Eta, inputs: rule_inputs.RuleInput) -> types.LPGTargets:
  """Computes the targets of a batch of trajectories (Section 3.1, B.1).

  Args:
    eta: the rule's parameters, from `init` or a file.
    inputs: leaves [T, ...], and `y` [T+1, ..., M]. The batch axes between T and
      M are flattened, so that lifetimes and environments become rows of the
      same matrix product.

  Returns:
    `pi_hat` [T, ...] and `y_hat_logits` [T, ..., M]; the latter is None if eta
    has no head for it.
  """
  num_steps, *batch = inputs.reward.shape
  chex.assert_shape(rule_inputs.columns(inputs), (num_steps, *batch))
  chex.assert_shape(inputs.y, (num_steps + 1, *batch, None))
  inputs = rule_inputs.flatten(inputs)
  x = _lstm_input(inputs, embed(eta, inputs.y))
  lstm = eta['lpg/lstm/linear']
  h = backward_lstm.unroll(lstm['w'], lstm['b'], x, inputs.discount_t)
  heads = [eta[name] for name in ('lpg/y_hat', 'lpg/pi_hat') if name in eta]
  w = jnp.concatenate([head['w'] for head in heads], axis=1)  # [H, M+1]
  b = jnp.concatenate([head['b'] for head in heads])
  *y_hat, pi_hat = columns.split(
      h @ w + b, tuple(head['b'].size for head in heads))
  return types.LPGTargets(
      pi_hat.reshape(num_steps, *batch),
      y_hat[0].reshape(num_steps, *batch, -1) if y_hat else None)
