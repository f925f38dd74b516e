"""Collects trajectories: T steps in B parallel environments of one lifetime."""

from typing import Callable, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.envs import base


class EpisodeReturns(NamedTuple):
  """Undiscounted returns of episodes, per parallel environment.

  An episode is whole if it was recorded from its start to its end. In
  meta-training the first episodes of a lifetime start midway, so they are not.
  """
  running: chex.Array  # [B], return of the current episode so far
  whole: chex.Array  # [B] bool, whether its start was recorded
  last: chex.Array  # [B], return of the last whole episode
  any_whole: chex.Array  # [B] bool, whether there was a whole episode
  window_sum: chex.Array  # [B], over whole episodes since `reset_window`
  window_count: chex.Array  # [B], number of those episodes


def init_returns(num_envs: int) -> EpisodeReturns:
  """Returns the state before a lifetime's first step."""
  zeros = jnp.zeros((num_envs,))
  nothing = jnp.zeros((num_envs,), bool)
  return EpisodeReturns(zeros, nothing, zeros, nothing, zeros, zeros)


def reset_window(returns: EpisodeReturns) -> EpisodeReturns:
  """Resets the sum and the number of episodes of the current window."""
  zeros = jnp.zeros_like(returns.running)
  return returns._replace(window_sum=zeros, window_count=zeros)


def add_step(returns: EpisodeReturns, reward: chex.Array,
          discount_t: chex.Array) -> EpisodeReturns:
  """Adds one step of each environment to `returns`.

  Args:
    returns: returns so far.
    reward: [B].
    discount_t: [B], 0 where the step ended its episode.
  """
  running = returns.running + reward
  ended = discount_t == 0.
  counts = jnp.logical_and(ended, returns.whole)
  return EpisodeReturns(
      running=jnp.where(ended, 0., running),
      whole=jnp.logical_or(returns.whole, ended),
      last=jnp.where(counts, running, returns.last),
      any_whole=jnp.logical_or(returns.any_whole, counts),
      window_sum=returns.window_sum + jnp.where(counts, running, 0.),
      window_count=returns.window_count + counts)


def final_return(returns: EpisodeReturns) -> chex.Array:
  """Mean over environments of the return of the last whole episode, [].

  An environment without a whole episode contributes its current episode's
  return so far. So a lifetime that ends early has a final return too.
  """
  return jnp.mean(
      jnp.where(returns.any_whole, returns.last, returns.running))


def sample_action(logits: chex.Array, uniform: chex.Array,
                  action_mask: chex.Array) -> chex.Array:
  """Samples from softmax(logits) by the inverse CDF, one uniform per row.

  Args:
    logits: [..., A]; masked entries are far below the others.
    uniform: [...] in [0, 1).
    action_mask: [A] bool, allowed actions. It keeps rounding errors from
      selecting a masked action at the end of the distribution.

  Returns:
    Actions [...], int32.
  """
  cdf = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
  action = jnp.sum(cdf <= uniform[..., None] * cdf[..., -1:], axis=-1)
  last = action_mask.shape[0] - 1 - jnp.argmax(action_mask[::-1])
  return jnp.minimum(action, last).astype(jnp.int32)


def rollout(
    environment: base.Environment,
    policy: Callable[[chex.Array], chex.Array],
    env_params: base.EnvParams,
    env_state: base.EnvState,
    observation: chex.Array,
    returns: EpisodeReturns,
    key: chex.PRNGKey,
    num_steps: int,
) -> tuple[types.Trajectory, base.EnvState, EpisodeReturns]:
  """Runs one lifetime's environments for `num_steps` under a fixed policy.

  Args:
    environment: functions of the environment kind.
    policy: maps observations [B, ...] to logits [B, A]; not differentiated.
    env_params: parameters of the lifetime's environment.
    env_state: leaves [B, ...].
    observation: [B, ...], the observation of `env_state`.
    returns: returns since the start of the lifetime.
    key: source of all of the rollout's randomness.
    num_steps: T.

  Returns:
    The trajectory, leaves [T, B, ...] and observations [T+1, B, ...]; the
    environments' state after it; the new returns.
  """
  num_envs = observation.shape[0]
  action_mask = environment.action_mask(env_params)
  action_key, env_key = jax.random.split(key)
  uniforms = jax.random.uniform(action_key, (num_steps, num_envs))
  keys = jax.random.split(env_key, num_steps * num_envs)
  keys = keys.reshape(num_steps, num_envs, -1)
  env_step = jax.vmap(environment.step, in_axes=(None, 0, 0, 0))

  def step(carry, xs):
    env_state, observation, returns = carry
    uniform, key = xs
    action = sample_action(policy(observation), uniform, action_mask)
    env_state, timestep = env_step(env_params, env_state, action, key)
    returns = add_step(returns, timestep.reward, timestep.discount)
    carry = env_state, timestep.observation, returns
    return carry, (observation, action, timestep.reward, timestep.discount)

  carry, (observations, action, reward, discount) = jax.lax.scan(
      step, (env_state, observation, returns), (uniforms, keys))
  env_state, observation, returns = carry
  observations = jnp.concatenate([observations, observation[None]])
  trajectory = types.Trajectory(observations, action, reward, discount)
  return trajectory, env_state, returns
