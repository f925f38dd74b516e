"""Lifetimes of a shard: born, advanced by a window a meta-step, ended, reborn.

`Shard.advance` is the unit of work of the whole system. Its randomness comes
from (seed, shard id, meta-step) and from nothing else, so it does not matter
who calls it, on which machine, or how often.
"""

import functools
from typing import Callable, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core import agent_update
from lpg_distributed.core import critic as critic_lib
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import reward_transform
from lpg_distributed.core import rollout
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import registry as environments

# Lifetimes times environments in a chunk, at most. These are the rows of the
# rule's matrix products. A CPU is no faster with more rows. Accelerators are,
# and have the memory.
_ROWS_ON_CPU, _ROWS_ELSEWHERE = 256, 4096
# Lifetimes with convolutions, of up to 0.8 GiB each at the paper's size.
_CONVOLVING_ON_CPU, _CONVOLVING_ELSEWHERE = 1, 8


class ShardState(NamedTuple):
  """Everything that a shard's lifetimes carry over; leaves [L, ...]."""
  task: meta_gradient.Task
  progress: meta_gradient.Progress
  age: chex.Array  # [L] int32, windows lived
  whole: chex.Array  # [L] bool, False for a first life that was cut short
  ended: chex.Array  # [L] bool, to be born again at the next meta-step


class ShardId(NamedTuple):
  """Which lifetimes a shard holds; scalars, traced, so shards share code."""
  seed: chex.Array
  shard_id: chex.Array
  first_slot: chex.Array
  kind_lifetimes: chex.Array


class ShardMetrics(NamedTuple):
  """One window of a shard; [L] unless said otherwise."""
  ended: chex.Array  # bool, for whatever reason
  reported: chex.Array  # bool, the bandit hears of it
  final_return: chex.Array  # of the lifetimes that ended
  arm: chex.Array  # int32
  collapsed: chex.Array  # bool, policy entropy fell below the threshold
  not_finite: chex.Array  # bool
  gradient_not_finite: chex.Array  # [] bool, and so counted as zero
  age: chex.Array  # int32, windows lived, this one included
  window_return_sum: chex.Array  # whole episodes completed in this window
  window_episodes: chex.Array
  loss: chex.Array
  policy_entropy: chex.Array
  y_entropy: chex.Array
  kl: chex.Array
  pi_hat_square: chex.Array
  y_hat_square: chex.Array


class Shard(NamedTuple):
  """The functions of one kind of shard."""
  empty: Callable[[], ShardState]  # before anybody is born
  # (eta [P], arm_log_probs [arms], state, shard_id, meta_step)
  #   -> (gradient_sum [P], state, ShardMetrics)
  advance: Callable[..., tuple[chex.Array, ShardState, ShardMetrics]]


def make_kind(config: config_lib.Config,
              environment_name: str) -> meta_gradient.Kind:
  """Puts an environment and its row of Table 3 together."""
  environment = environments.load_trainable(environment_name)
  agent_config = config.agents[environment_name]
  spec = environment.observation_spec()
  rule = registry.make_learned(
      config.rule, network=meta_gradient.isolated_network)
  return meta_gradient.Kind(
      environment=environment,
      agent=agent_networks.make_agent(
          agent_config, spec, environment.action_spec().num_values,
          rule.outputs.num_predictions, config.meta.y_table_stddev),
      optimiser=agent_update.make_optimiser(agent_config.optimiser),
      critic=critic_lib.make_critic(
          agent_config, spec, config.outer),
      rule=rule)


def draw_hyper_params(key: chex.PRNGKey, config: config_lib.Config,
                      environment_name: str,
                      arm_log_probs: chex.Array) -> types.HyperParams:
  """One lifetime's alpha from the bandit, gamma and beta_0 from Table 2."""
  arms = jnp.asarray(config.agents[environment_name].arms)  # [arms, 2]
  arm_key, gamma_key, beta_key = jax.random.split(key, 3)
  chex.assert_shape(arm_log_probs, arms.shape[:1])
  arm = jax.random.categorical(arm_key, arm_log_probs).astype(jnp.int32)
  pick = lambda key, values: jnp.asarray(values)[
      jax.random.randint(key, (), 0, len(values))]
  return types.HyperParams(
      arm, arms[arm, 0], arms[arm, 1],
      pick(gamma_key, config.meta.discounts),
      pick(beta_key, config.meta.policy_entropy_costs))


def birth(config: config_lib.Config, environment_name: str,
          kind: meta_gradient.Kind, key: chex.PRNGKey,
          arm_log_probs: chex.Array
          ) -> tuple[meta_gradient.Task, meta_gradient.Progress]:
  """One new lifetime, with a trajectory still to be collected."""
  keys = jax.random.split(key, 5)
  environment, num_envs = kind.environment, config.meta.num_envs
  env_params = environment.init_params(keys[0])
  env_state, observation = jax.vmap(
      environment.reset_midway, in_axes=(None, 0))(
          env_params, jax.random.split(keys[1], num_envs))
  theta = kind.agent.init(keys[2])
  shape = (config.meta.trajectory_steps, num_envs)
  trajectory = types.Trajectory(
      jnp.broadcast_to(observation, (shape[0] + 1,) + observation.shape),
      jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.zeros(shape))
  task = meta_gradient.Task(env_params, draw_hyper_params(
      keys[3], config, environment_name, arm_log_probs))
  return task, meta_gradient.Progress(
      theta, kind.optimiser.init(theta), kind.critic.init(keys[4]),
      env_state, rollout.no_returns(num_envs), trajectory)


def _select(choose: chex.Array, new: chex.Array, old: chex.Array,
            axis: int) -> chex.Array:
  """Per lifetime, `new` or `old`; `choose` [L]."""
  shape = (1,) * axis + (-1,) + (1,) * (new.ndim - axis - 1)
  return jnp.where(choose.reshape(shape), new, old)


def _split(num_chunks: int, x: chex.Array, axis: int = 0) -> chex.Array:
  """[.., L, ..] to [C, .., L / C, ..]."""
  shape = x.shape[:axis] + (num_chunks, -1) + x.shape[axis + 1:]
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def _join(x: chex.Array, axis: int = 0) -> chex.Array:
  """The inverse of `_split`."""
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(x.shape[:axis] + (-1,) + x.shape[axis + 2:])


def _over_lifetimes(function: Callable[..., chex.Array],
                    *states: ShardState) -> ShardState:
  """Applies `function(*leaves, axis)`, with the axis of the lifetimes."""
  over = lambda axis, *trees: jax.tree_util.tree_map(
      lambda *leaves: function(*leaves, axis), *trees)
  progress = [state.progress for state in states]
  trajectory = over(1, *(p.trajectory for p in progress))
  progress = over(0, *(p._replace(trajectory=()) for p in progress))
  return over(0, *(state._replace(progress=()) for state in states))._replace(
      progress=progress._replace(trajectory=trajectory))


def chunk_size(config: config_lib.Config, environment_name: str,
               num_lifetimes: int, platform: str = 'cpu') -> int:
  """How many of a shard's lifetimes are differentiated at a time.

  The rule's residuals, 39 MiB per lifetime at the paper's size, and those of
  agents with convolutions are kept for one chunk only. Where each lifetime's
  gradient is wanted by itself, a CPU does them one by one.
  """
  on_cpu = platform == 'cpu'
  if on_cpu and config.meta.max_lifetime_gradient_norm:
    limit = 1
  elif config.agents[environment_name].conv:
    limit = _CONVOLVING_ON_CPU if on_cpu else _CONVOLVING_ELSEWHERE
  else:
    rows = _ROWS_ON_CPU if on_cpu else _ROWS_ELSEWHERE
    limit = max(1, rows // config.meta.num_envs)
  return max(n for n in range(1, min(limit, num_lifetimes) + 1)
             if num_lifetimes % n == 0)


# A trajectory's lifetimes are behind its steps.
_PROGRESS_AXES = meta_gradient.Progress(0, 0, 0, 0, 0, 1)
BIRTH_AXES = (0, _PROGRESS_AXES)  # of `birth` under vmap


def _each(together, task, progress, keys):
  """`together` for each lifetime as if there were no others.

  Returns what it returns, leaves [L, ...] of a gradient [1, P] for each.
  """
  if keys.shape[0] == 1:
    return together(task, progress, keys)

  def change(function, progress):
    return meta_gradient.Progress(*(
        jax.tree_util.tree_map(lambda x, axis=axis: function(x, axis), part)
        for part, axis in zip(progress, _PROGRESS_AXES)))

  def one(task, progress, keys):
    first = functools.partial(jax.tree_util.tree_map, lambda x: x[0])
    gradient, progress, stats = together(
        jax.tree_util.tree_map(lambda x: x[None], task),
        change(jnp.expand_dims, progress), keys[None])
    return gradient[0], change(jnp.squeeze, progress), first(stats)

  return jax.vmap(one, (0, _PROGRESS_AXES, 0), (0, _PROGRESS_AXES, 0))(
      task, progress, keys)


def with_matmul_precision(precision: str, function: Callable) -> Callable:
  """`function`, whose matrix products are traced with this precision."""
  @functools.wraps(function)
  def precise(*args, **kwargs):
    with jax.default_matmul_precision(precision):
      return function(*args, **kwargs)

  return precise


def make_shard(config: config_lib.Config, environment_name: str,
               num_lifetimes: int, platform: str = 'cpu') -> Shard:
  """Builds the functions of a shard of one kind.

  Args:
    config: of the run.
    environment_name: the kind.
    num_lifetimes: of the shard.
    platform: that the shard is compiled for, as `jax.Device.platform` names
      it: `cpu`, `gpu` or `tpu`. It need not be JAX's default one.
  """
  kind = make_kind(config, environment_name)
  windows = config.lifetime_windows(environment_name)
  num_keys = config.meta.num_updates + 2  # birth, its rollout, K rollouts
  num_arms = len(config.agents[environment_name].arms)
  num_chunks = num_lifetimes // chunk_size(config, environment_name,
                                           num_lifetimes, platform)

  def bear(keys, arm_log_probs):
    """[l, >=2, 2] keys to l new lifetimes with their first trajectories."""
    task, progress = jax.vmap(
        functools.partial(birth, config, environment_name, kind),
        in_axes=(0, None), out_axes=BIRTH_AXES)(keys[:, 0], arm_log_probs)
    task = task._replace(rewards=reward_transform.draw(
        keys[:, 0], config.meta))
    return task, meta_gradient.collect(kind, config.meta, task, progress,
                                       keys[:, 1])

  def bear_the_ended(state, keys, slots, arm_log_probs, shard_id, meta_step):
    task, progress = bear(keys, arm_log_probs)
    first_age = (slots * windows // shard_id.kind_lifetimes
                 if config.meta.staggered_ages else jnp.zeros_like(slots))
    age = jnp.where(meta_step == 0, first_age, 0)
    new = ShardState(task, progress, age, age == 0, jnp.zeros_like(state.ended))
    return _over_lifetimes(
        functools.partial(_select, state.ended), new, state)

  def window_gradients(eta, task, progress, keys):
    """The lifetimes after a window, and gradients [n, P] that add up to theirs.

    One for all of them, unless each has a norm of its own to keep to.
    """
    def together(task, progress, keys):
      (_, (progress, stats)), gradient = jax.value_and_grad(
          lambda e: meta_gradient.window_loss(
              rule_vector.unravel(config.rule, e), kind, config,
              task, progress, keys), has_aux=True)(eta)
      return gradient[None], progress, stats

    max_norm = config.meta.max_lifetime_gradient_norm
    if not max_norm:
      return together(task, progress, keys)
    gradients, progress, stats = _each(together, task, progress, keys)
    norms = jnp.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients * jnp.minimum(1., max_norm / norms), progress, stats

  def advance_chunk(eta, state, keys, slots, arm_log_probs, shard_id,
                    meta_step):
    """`advance` for some of the shard's lifetimes."""
    state = jax.lax.cond(
        jnp.any(state.ended),
        lambda s: bear_the_ended(s, keys, slots, arm_log_probs, shard_id,
                                 meta_step),
        lambda s: s, state)
    progress = state.progress._replace(
        returns=rollout.open_window(state.progress.returns))
    gradients, progress, stats = window_gradients(
        eta, state.task, progress, keys[:, 2:])
    finite = jnp.all(jnp.isfinite(gradients), axis=1, keepdims=True)
    gradients = jnp.where(finite, gradients, 0.)
    return jnp.sum(gradients, axis=0), *_close_window(
        state, progress, stats, jnp.all(finite), windows, config.meta)

  def advance(eta, arm_log_probs, state, shard_id, meta_step):
    chex.assert_shape(arm_log_probs, (num_arms,))
    key = jax.random.fold_in(jax.random.fold_in(
        jax.random.PRNGKey(shard_id.seed), shard_id.shard_id), meta_step)
    keys = jax.random.split(key, num_lifetimes * num_keys)
    keys = keys.reshape(num_lifetimes, num_keys, -1)
    slots = shard_id.first_slot + jnp.arange(num_lifetimes)

    def step(gradient_sum, chunk):
      gradient, state, metrics = advance_chunk(
          eta, *chunk, arm_log_probs, shard_id, meta_step)
      return gradient_sum + gradient, (state, metrics)

    split = functools.partial(_split, num_chunks)
    gradient_sum, (state, metrics) = jax.lax.scan(
        step, jnp.zeros_like(eta),
        (_over_lifetimes(split, state), split(keys), split(slots)))
    metrics = jax.tree_util.tree_map(
        _join, metrics._replace(gradient_not_finite=()))._replace(
            gradient_not_finite=jnp.any(metrics.gradient_not_finite))
    return gradient_sum, _over_lifetimes(_join, state), metrics

  def empty():
    shapes = jax.eval_shape(
        bear, jnp.zeros((num_lifetimes, num_keys, 2), jnp.uint32),
        jnp.zeros((num_arms,)))
    task, progress = jax.tree_util.tree_map(
        lambda s: np.zeros(s.shape, s.dtype), shapes)
    return ShardState(task, progress, np.zeros((num_lifetimes,), np.int32),
                      np.zeros((num_lifetimes,), bool),
                      np.ones((num_lifetimes,), bool))

  return Shard(empty, with_matmul_precision(
      config.run.matmul_precision, advance))


def _close_window(state, progress, stats, gradient_finite, windows, config):
  """Ages the lifetimes and ends those whose time has come."""
  age = state.age + 1
  collapsed = jnp.logical_and(
      stats.finite, stats.policy_entropy < config.min_policy_entropy)
  ended = (age >= windows) | collapsed | ~stats.finite
  returns = progress.returns
  sum_envs = lambda x: jnp.sum(x, axis=1)
  metrics = ShardMetrics(
      ended=ended,
      # A first life that began midway says nothing of its hyperparameters,
      # unless it failed.
      reported=ended & (state.whole | collapsed | ~stats.finite),
      final_return=jax.vmap(rollout.final_return)(returns),
      arm=state.task.hyper.arm,
      collapsed=collapsed,
      not_finite=~stats.finite,
      gradient_not_finite=~gradient_finite,
      age=age,
      window_return_sum=sum_envs(returns.window_sum),
      window_episodes=sum_envs(returns.window_count),
      loss=stats.loss,
      policy_entropy=stats.policy_entropy,
      y_entropy=stats.y_entropy,
      kl=stats.kl,
      pi_hat_square=stats.pi_hat_square,
      y_hat_square=stats.y_hat_square)
  return state._replace(progress=progress, age=age, ended=ended), metrics
