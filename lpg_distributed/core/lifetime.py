"""Starts, advances and ends the lifetimes of a shard.

A shard is a group of L lifetimes of one environment kind. In each meta-step a
worker calls `Shard.advance` once for each of its shards. It replaces lifetimes
that have ended, runs one window of K updates, and computes the meta-gradient.
Its randomness depends only on (seed, shard id, meta-step). So its result does
not depend on which worker calls it, on which machine, or how often.
"""

import functools
from typing import Callable, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import agent_networks
from lpg_distributed.core import agent_update
from lpg_distributed.core import critic as critic_lib
from lpg_distributed.core import lifetime_axes
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import reward_transform
from lpg_distributed.core import rollout
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import base
from lpg_distributed.envs import registry as environments

# Largest number of lifetimes times environments in a chunk (`chunk_size`). They
# are the rows of the rule's matrix products. Accelerators are faster with more
# rows, CPUs are not.
_ROWS_ON_CPU, _ROWS_ELSEWHERE = 256, 4096
# Largest number of lifetimes in a chunk if the agents have convolutions. Each
# lifetime takes up to 0.8 GiB at the paper's size.
_CONV_LIFETIMES_ON_CPU, _CONV_LIFETIMES_ELSEWHERE = 1, 8


class ShardState(NamedTuple):
  """State of a shard's lifetimes between meta-steps; leaves [L, ...]."""
  task: meta_gradient.Task
  progress: meta_gradient.Progress
  age: chex.Array  # [L] int32, number of windows so far
  whole: chex.Array  # [L] bool; False: its first age was above 0 (staggered)
  ended: chex.Array  # [L] bool; the next meta-step starts a new lifetime


class ShardId(NamedTuple):
  """The numbers that tell a shard from others.

  They are traced scalars, so that all shards share a compiled program.
  """
  seed: chex.Array  # seed of the run
  shard_id: chex.Array  # index of the shard in the run
  first_slot: chex.Array  # index of its first lifetime among those of its kind
  kind_lifetimes: chex.Array  # number of lifetimes of the kind, in all shards


class ShardMetrics(NamedTuple):
  """Metrics of one window of a shard; [L] unless stated otherwise."""
  ended: chex.Array  # bool, for any reason
  reported: chex.Array  # bool, whether the bandit gets the final return
  final_return: chex.Array  # meaningful where `ended`
  arm: chex.Array  # int32, the bandit's arm that the lifetime uses
  collapsed: chex.Array  # bool, policy entropy fell below the threshold
  not_finite: chex.Array  # bool
  gradient_not_finite: chex.Array  # [] bool; it was replaced by zero
  age: chex.Array  # int32, number of windows, this one included
  window_return_sum: chex.Array  # over whole episodes that ended in this window
  window_episodes: chex.Array  # the number of those episodes
  # The next six are fields of `meta_gradient.WindowStats` too.
  loss: chex.Array
  policy_entropy: chex.Array
  y_entropy: chex.Array
  kl: chex.Array
  pi_hat_square: chex.Array
  y_hat_square: chex.Array


class ShardSetup(NamedTuple):
  """The constants of a shard's program; static under `jit`."""
  config: config_lib.Config
  environment_name: str
  kind: meta_gradient.Kind


class ShardCall(NamedTuple):
  """Arguments of `Shard.advance` that all chunks share; traced."""
  eta: chex.Array  # [P]
  arm_log_probs: chex.Array  # [arms]
  shard_id: ShardId
  meta_step: chex.Array


class Shard(NamedTuple):
  """Functions for the shards of one environment kind."""
  empty: Callable[[], ShardState]  # state before the first lifetimes start
  # (eta [P], arm_log_probs [arms], state, shard_id, meta_step)
  #   -> (gradient_sum [P], state, ShardMetrics)
  advance: Callable[..., tuple[chex.Array, ShardState, ShardMetrics]]


def make_kind(config: config_lib.Config, environment_name: str,
              platform: str = 'cpu') -> meta_gradient.Kind:
  """Combines an environment with the agent in its row of Table 3.

  Args:
    config: configuration of the run.
    environment_name: name of the environment kind.
    platform: platform that its programs are compiled for, as in `make_shard`.
  """
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
      rule=rule,
      recomputes=platform != 'cpu' or bool(agent_config.conv))


def draw_hyper_params(key: chex.PRNGKey, config: config_lib.Config,
                      environment_name: str,
                      arm_log_probs: chex.Array
                      ) -> types.LifetimeHyperparameters:
  """Draws a lifetime's alpha from the bandit, gamma and beta_0 from Table 2."""
  arms = jnp.asarray(config.agents[environment_name].arms)  # [arms, 2]
  arm_key, gamma_key, beta_key = jax.random.split(key, 3)
  chex.assert_shape(arm_log_probs, arms.shape[:1])
  arm = jax.random.categorical(arm_key, arm_log_probs).astype(jnp.int32)
  pick = lambda key, values: jnp.asarray(values)[
      jax.random.randint(key, (), 0, len(values))]
  return types.LifetimeHyperparameters(
      arm, arms[arm, 0], arms[arm, 1],
      pick(gamma_key, config.meta.gammas),
      pick(beta_key, config.meta.policy_entropy_costs))


INIT_AXES = (0, lifetime_axes.PROGRESS)  # of `init_lifetime` under vmap


def init_env_params(environment: base.Environment, key: chex.PRNGKey
                    ) -> base.EnvParams:
  """Returns the parameters that `init_lifetime` draws from the same key."""
  return environment.init_params(jax.random.split(key, 5)[0])


def init_lifetime(config: config_lib.Config, environment_name: str,
                  kind: meta_gradient.Kind, key: chex.PRNGKey,
                  arm_log_probs: chex.Array
                  ) -> tuple[meta_gradient.Task, meta_gradient.Progress]:
  """Starts one lifetime; its trajectory is empty until `collect` is called."""
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
      env_state, rollout.init_returns(num_envs), trajectory,
      agent_life.init_rewards(kind.rule))


def chunk_size(config: config_lib.Config, environment_name: str,
               num_lifetimes: int, platform: str = 'cpu') -> int:
  """Returns how many of a shard's lifetimes are differentiated at a time.

  Smaller chunks need less memory, since residuals are kept for one chunk only.
  Those of the rule take 39 MiB per lifetime at the paper's size. Where each
  lifetime's gradient is clipped, chunks on a CPU hold one lifetime.
  """
  on_cpu = platform == 'cpu'
  if on_cpu and config.meta.max_lifetime_gradient_norm:
    limit = 1
  elif config.agents[environment_name].conv:
    limit = _CONV_LIFETIMES_ON_CPU if on_cpu else _CONV_LIFETIMES_ELSEWHERE
  else:
    rows = _ROWS_ON_CPU if on_cpu else _ROWS_ELSEWHERE
    limit = max(1, rows // config.meta.num_envs)
  return max(n for n in range(1, min(limit, num_lifetimes) + 1)
             if num_lifetimes % n == 0)


def with_matmul_precision(precision: str, function: Callable) -> Callable:
  """Returns `function`, with its matrix products traced at `precision`."""
  @functools.wraps(function)
  def precise(*args, **kwargs):
    with jax.default_matmul_precision(precision):
      return function(*args, **kwargs)

  return precise


def _init_lifetimes(setup: ShardSetup, keys: chex.PRNGKey,
                    arm_log_probs: chex.Array
                    ) -> tuple[meta_gradient.Task, meta_gradient.Progress]:
  """Starts n lifetimes with their first trajectories; keys [n, >=2, 2]."""
  task, progress = jax.vmap(
      functools.partial(init_lifetime, setup.config, setup.environment_name,
                        setup.kind),
      in_axes=(0, None), out_axes=INIT_AXES)(keys[:, 0], arm_log_probs)
  meta = setup.config.meta
  task = task._replace(rewards=reward_transform.draw(keys[:, 0], meta))
  return task, meta_gradient.collect(setup.kind, meta, task, progress,
                                     keys[:, 1])


def _replace_ended(setup: ShardSetup, call: ShardCall, state: ShardState,
                   keys: chex.PRNGKey, slots: chex.Array) -> ShardState:
  """Starts a new lifetime wherever one has ended."""
  task, progress = _init_lifetimes(setup, keys, call.arm_log_probs)
  windows = setup.config.lifetime_windows(setup.environment_name)
  first_age = (slots * windows // call.shard_id.kind_lifetimes
               if setup.config.meta.staggered_ages else jnp.zeros_like(slots))
  age = jnp.where(call.meta_step == 0, first_age, 0)
  new = ShardState(task, progress, age, age == 0, jnp.zeros_like(state.ended))
  return lifetime_axes.over_state(
      functools.partial(lifetime_axes.select, state.ended), new, state)


def _window_gradients(setup: ShardSetup, eta: chex.Array,
                      task: meta_gradient.Task,
                      progress: meta_gradient.Progress, keys: chex.PRNGKey):
  """Computes a window and its gradients.

  Returns:
    Gradients [n, P]: one summed over the lifetimes, or one per lifetime if
    clipping is on. The lifetimes after the window. Their `WindowStats`.
  """
  config = setup.config

  def together(task, progress, keys):
    (_, (progress, stats)), gradient = jax.value_and_grad(
        lambda e: meta_gradient.window_loss(
            rule_vector.unravel(config.rule, e), setup.kind, config,
            task, progress, keys), has_aux=True)(eta)
    return gradient[None], progress, stats

  max_norm = config.meta.max_lifetime_gradient_norm
  if not max_norm:
    return together(task, progress, keys)
  gradients, progress, stats = lifetime_axes.each(
      together, task, progress, keys)
  norms = jnp.linalg.norm(gradients, axis=1, keepdims=True)
  return gradients * jnp.minimum(1., max_norm / norms), progress, stats


def _with_age(setup: ShardSetup, state: ShardState) -> meta_gradient.Task:
  """Returns the lifetimes' task with their ages, if the rule sees them.

  A staggered first lifetime counts from its first age, so that what is left of
  each lifetime is right.
  """
  if not setup.kind.rule.sees_age:
    return state.task
  num_updates = setup.config.meta.num_updates
  whole = setup.config.lifetime_windows(setup.environment_name) * num_updates
  done = state.age * num_updates
  return state.task._replace(
      age=agent_life.Age(done, jnp.full_like(done, whole)))


def _advance_chunk(setup: ShardSetup, call: ShardCall, state: ShardState,
                   keys: chex.PRNGKey, slots: chex.Array):
  """Advances one chunk of lifetimes by one window; see `Shard.advance`.

  Args:
    setup: constants of the program.
    call: arguments of `Shard.advance`.
    state: state of the chunk's n lifetimes.
    keys: [n, 2 + K, 2]: start, first rollout, K rollouts.
    slots: [n], indices of the lifetimes among those of their kind.
  """
  state = jax.lax.cond(
      jnp.any(state.ended),
      lambda s: _replace_ended(setup, call, s, keys, slots),
      lambda s: s, state)
  progress = state.progress._replace(
      returns=rollout.reset_window(state.progress.returns))
  gradients, progress, stats = _window_gradients(
      setup, call.eta, _with_age(setup, state), progress, keys[:, 2:])
  finite = jnp.all(jnp.isfinite(gradients), axis=1, keepdims=True)
  gradients = jnp.where(finite, gradients, 0.)
  return jnp.sum(gradients, axis=0), *_end_window(
      state, progress, stats, jnp.all(finite),
      setup.config.lifetime_windows(setup.environment_name),
      setup.config.meta)


def make_shard(config: config_lib.Config, environment_name: str,
               num_lifetimes: int, platform: str = 'cpu') -> Shard:
  """Builds the functions of shards of one environment kind.

  Args:
    config: configuration of the run.
    environment_name: name of the environment kind.
    num_lifetimes: L, lifetimes per shard.
    platform: platform that the shard is compiled for: `cpu`, `gpu` or `tpu`,
      as in `jax.Device.platform`. It need not be JAX's default.
  """
  setup = ShardSetup(config, environment_name,
                     make_kind(config, environment_name, platform))
  num_keys = config.meta.num_updates + 2  # start, first rollout, K rollouts
  num_arms = len(config.agents[environment_name].arms)
  num_chunks = num_lifetimes // chunk_size(config, environment_name,
                                           num_lifetimes, platform)

  def advance(eta, arm_log_probs, state, shard_id, meta_step):
    chex.assert_shape(arm_log_probs, (num_arms,))
    key = jax.random.fold_in(jax.random.fold_in(
        jax.random.PRNGKey(shard_id.seed), shard_id.shard_id), meta_step)
    keys = jax.random.split(key, num_lifetimes * num_keys)
    keys = keys.reshape(num_lifetimes, num_keys, -1)
    slots = shard_id.first_slot + jnp.arange(num_lifetimes)
    call = ShardCall(eta, arm_log_probs, shard_id, meta_step)

    def step(gradient_sum, chunk):
      gradient, state, metrics = _advance_chunk(setup, call, *chunk)
      return gradient_sum + gradient, (state, metrics)

    split = functools.partial(lifetime_axes.split, num_chunks)
    gradient_sum, (state, metrics) = jax.lax.scan(
        step, jnp.zeros_like(eta),
        (lifetime_axes.over_state(split, state), split(keys), split(slots)))
    metrics = jax.tree_util.tree_map(
        lifetime_axes.join, metrics._replace(gradient_not_finite=()))._replace(
            gradient_not_finite=jnp.any(metrics.gradient_not_finite))
    return (gradient_sum, lifetime_axes.over_state(lifetime_axes.join, state),
            metrics)

  def empty():
    shapes = jax.eval_shape(
        functools.partial(_init_lifetimes, setup),
        jnp.zeros((num_lifetimes, num_keys, 2), jnp.uint32),
        jnp.zeros((num_arms,)))
    task, progress = jax.tree_util.tree_map(
        lambda s: np.zeros(s.shape, s.dtype), shapes)
    return ShardState(task, progress, np.zeros((num_lifetimes,), np.int32),
                      np.zeros((num_lifetimes,), bool),
                      np.ones((num_lifetimes,), bool))

  return Shard(empty, with_matmul_precision(
      config.run.matmul_precision, advance))


def _end_window(state, progress, stats, gradient_finite, windows, config):
  """Adds one window to all ages, marks ended lifetimes and computes metrics.

  A lifetime ends at full age, if its policy collapsed, or if its numbers are
  not finite.
  """
  age = state.age + 1
  collapsed = jnp.logical_and(
      stats.finite, stats.policy_entropy < config.min_policy_entropy)
  ended = (age >= windows) | collapsed | ~stats.finite
  returns = progress.returns
  sum_envs = lambda x: jnp.sum(x, axis=1)
  metrics = ShardMetrics(
      ended=ended,
      # A staggered first lifetime is too short to judge its hyperparameters
      # by, unless it failed.
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
