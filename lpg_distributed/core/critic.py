"""The critic: a value function per lifetime, the baseline of Eq. (4).

It lowers the variance of the policy gradient in Eqs. (3) and (4). LPG does not
see V(s) (B.1); LPG-V does. Each lifetime starts with a new critic, which is
trained on the trajectories of its agent. The meta-gradient does not
differentiate it.
"""

from typing import Callable, NamedTuple

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import optax

from lpg_distributed import config as config_lib
from lpg_distributed import light_imports
from lpg_distributed import types
from lpg_distributed.core import agent_networks

rlax = light_imports.import_rlax()


class CriticState(NamedTuple):
  """State of a lifetime's critic."""
  params: types.Params
  opt_state: optax.OptState
  advantage_square: chex.Array  # [], moving average, biased towards 0 at first
  num_updates: chex.Array  # [] int32


class Critic(NamedTuple):
  """Pure functions of one lifetime's critic."""
  init: Callable[[chex.PRNGKey], CriticState]
  # (state, observation [..., *shape]) -> V(s) [...]
  evaluate: Callable[[CriticState, chex.Array], chex.Array]
  # (state, trajectory, gamma, td_lambda, learning_rate) -> (state, advantage
  # [T, B]). The advantage is computed before the critic learns from this
  # trajectory. If td_lambda or learning_rate is None, the config's is used.
  update: Callable[..., tuple[CriticState, chex.Array]]


def lambda_returns(trajectory: types.Trajectory, values: chex.Array,
                   gamma: chex.Numeric, td_lambda: chex.Numeric) -> chex.Array:
  """TD(lambda) targets, [T, ...].

  Args:
    trajectory: leaves [T, ...].
    values: [T+1, ...].
    gamma: discount factor; broadcasts against [...].
    td_lambda: lambda; broadcasts against [...].
  """
  shape = trajectory.reward.shape
  flat = lambda x: x.reshape(x.shape[0], -1)
  lambda_varies = jnp.ndim(td_lambda) > 0
  if lambda_varies:
    td_lambda = flat(jnp.broadcast_to(td_lambda, shape))
  batched = jax.vmap(rlax.lambda_returns, out_axes=1,
                     in_axes=(1, 1, 1, 1 if lambda_varies else None))
  return batched(flat(trajectory.reward), flat(gamma * trajectory.discount_t),
                 flat(values[1:]), td_lambda).reshape(shape)


def _mean_visit_update(table: chex.Array, state_index: chex.Array,
                       error: chex.Array, rate: chex.Numeric) -> chex.Array:
  """Moves each visited state's value by `rate` times its mean error.

  A step by the summed error would grow with the number of visits. It diverges
  where one state takes most of a batch.

  Args:
    table: [S, 1].
    state_index: [T, B] int32.
    error: [T, B], target minus value.
    rate: in (0, 1].
  """
  columns = jnp.stack([error, jnp.ones_like(error)], axis=-1)
  sums = jnp.zeros((table.shape[0], 2)).at[state_index].add(columns)
  return table + rate * sums[:, :1] / jnp.maximum(sums[:, 1:], 1.)


def make_critic(agent_config: config_lib.AgentConfig,
                observation_spec: specs.Array,
                config: config_lib.OuterConfig) -> Critic:
  """Builds a table for agents that are tables, else a network.

  The network has the same torso as the agent's.
  """
  network = agent_networks.make_network(agent_config, observation_spec, 1)
  config_rate = (config.table_learning_rate if agent_config.is_table
                 else config.network_learning_rate)

  def init(key):
    params = network.init(key)
    opt_state = (() if agent_config.is_table
                 else optax.adam(config_rate).init(params))
    return CriticState(params, opt_state, jnp.zeros(()),
                       jnp.zeros((), jnp.int32))

  def learn(state, trajectory, gamma, td_lambda, rate):
    """Returns new parameters, a new optimiser state and the errors [T, B]."""
    def errors(params):
      values = network.apply(params, trajectory.observation)[..., 0]
      targets = lambda_returns(trajectory, jax.lax.stop_gradient(values),
                               gamma, td_lambda)
      return targets - values[:-1]

    if agent_config.is_table:
      error = errors(state.params)
      params = _mean_visit_update(
          state.params, trajectory.observation[:-1], error, rate)
      return params, (), error

    error, pullback = jax.vjp(errors, state.params)
    (gradient,) = pullback(error / error.size)  # of 0.5 * mean(error ** 2)
    updates, opt_state = optax.adam(rate).update(gradient, state.opt_state)
    return optax.apply_updates(state.params, updates), opt_state, error

  def update(state, trajectory, gamma, td_lambda=None, learning_rate=None):
    params, opt_state, advantage = learn(
        state, trajectory, gamma,
        config.td_lambda if td_lambda is None else td_lambda,
        config_rate if learning_rate is None else learning_rate)
    decay = config.advantage_ema_decay
    square = decay * state.advantage_square + (1. - decay) * jnp.mean(
        jnp.square(advantage))
    count = state.num_updates + 1
    if decay:
      scale = jnp.sqrt(square / (1. - decay ** count)) + 1e-4
      advantage = advantage / scale
    return CriticState(params, opt_state, square, count), advantage

  def evaluate(state, observation):
    return network.apply(state.params, observation)[..., 0]

  return Critic(init, evaluate, update)
