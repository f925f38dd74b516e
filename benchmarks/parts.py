"""The parts of a meta-step as compiled calls, each on its own.

They share nothing when timed apart, so that they sum to a little more or less
than the whole; what the whole computes twice (the update, for its gradient)
is not in them twice.
"""

from typing import Any, Callable

import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import agent_update
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_vector


def shard_call(config: config_lib.Config, name: str, num_lifetimes: int):
  """A compiled meta-step of a shard, already living, and its state.

  Returns:
    call: runs the meta-step from the same state, again and again.
    compiled: for what the compiler says of it.
    state: of the shard, after its first meta-step.
    compile_again: compiles the same once more, in seconds' worth of work.
  """
  shard = lifetime.make_shard(config, name, num_lifetimes)
  eta = rule_vector.ravel(
      lpg_network.init(config.rule, jax.random.PRNGKey(0)))
  arms = jnp.zeros(len(config.agents[name].arms))
  shard_id = lifetime.ShardId(*map(jnp.int32, (0, 0, 0, num_lifetimes)))

  def compile_again(state):
    # A function of its own, or JAX would remember the last one.
    advance = jax.jit(lambda *args: shard.advance(*args))
    return advance.lower(eta, arms, state, shard_id, jnp.int32(1)).compile()

  compiled = compile_again(shard.empty())
  _, state, _ = compiled(eta, arms, shard.empty(), shard_id, jnp.int32(0))
  call = lambda: compiled(eta, arms, state, shard_id, jnp.int32(1))
  return call, compiled, state, lambda: compile_again(state)


def part_calls(config: config_lib.Config, name: str,
               state: lifetime.ShardState) -> dict[str, Callable[[], Any]]:
  """Compiled calls by part; all but `outer` belong to one of K updates."""
  kind = lifetime.make_kind(config, name)
  task, progress = state.task, state.progress
  num_lifetimes = state.age.shape[0]
  keys = jax.random.split(jax.random.PRNGKey(1), num_lifetimes)
  eta = lpg_network.init(config.rule, jax.random.PRNGKey(0))
  outputs = lambda theta: meta_gradient.agent_outputs(
      kind, theta, progress.trajectory.observation, task.env_params)
  inputs = lambda output: agent_update.rule_input(
      output, progress.trajectory, task.hyper.gamma[:, None])
  rule_inputs = jax.jit(lambda theta: inputs(outputs(theta)))(progress.theta)
  targets = jax.jit(lpg_network.apply)(eta, rule_inputs)

  def rule(eta, rule_inputs):
    def total(eta, rule_inputs):
      targets = lpg_network.apply(eta, rule_inputs)
      return (jnp.sum(jnp.square(targets.pi_hat))
              + jnp.sum(jnp.square(targets.y_hat_logits)))
    return jax.grad(total, argnums=(0, 1))(eta, rule_inputs)

  def agent(theta, targets):
    """An update and its reverse pass, as if the rule cost nothing."""
    def update(theta, targets):
      gradient, output, _ = agent_update.agent_gradient(
          outputs, theta, lambda _: targets, progress.trajectory,
          task.hyper.alpha_y[:, None],
          config.meta.trajectory_steps * config.meta.num_envs)
      theta, _ = jax.vmap(kind.optimiser.apply)(
          gradient, progress.opt_state, theta, task.hyper.alpha_lr)
      return theta, inputs(output)
    out, pullback = jax.vjp(update, theta, targets)
    return pullback(out)

  def acting(theta):
    return meta_gradient.collect(
        kind, config.meta, task, progress._replace(theta=theta), keys)

  def critic(value):
    return jax.vmap(kind.critic.update, in_axes=(0, 1, 0),
                    out_axes=(0, 1))(
        value, progress.trajectory, task.hyper.gamma)

  def outer(theta):
    def loss(theta):
      output = meta_gradient.agent_outputs(
          kind, theta, progress.trajectory.observation[:-1], task.env_params)
      losses, _, _ = jax.vmap(
          meta_gradient._policy_loss, in_axes=(1, 1, 1, 0, None))(
              output, progress.trajectory.action, progress.trajectory.reward,
              task.hyper.beta_0, config.meta.prediction_entropy_cost)
      return jnp.sum(losses)
    return jax.grad(loss)(theta)

  def compiled(function, *args):
    run = jax.jit(function).lower(*args).compile()
    return lambda: run(*args)

  return {
      'rule': compiled(rule, eta, rule_inputs),
      'agent': compiled(agent, progress.theta, targets),
      'acting': compiled(acting, progress.theta),
      'critic': compiled(critic, progress.value),
      'outer': compiled(outer, progress.theta),
  }
