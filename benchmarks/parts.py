"""Compiles the parts of a meta-step as separate calls, to time them.

Separate parts share no work, so the sum of their times differs a little from
the time of a whole meta-step. A meta-step may also run each update once more
for its gradient (`meta_gradient.Kind.recomputes`); the parts do not.
"""

from typing import Any, Callable

import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import agent_update
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base


def shard_call(config: config_lib.Config, name: str, num_lifetimes: int):
  """Compiles the meta-step of a shard and runs its first one.

  Returns:
    call: runs the second meta-step; each call starts from the same state.
    compiled: the compiled program, for its memory analysis.
    state: the shard's state after its first meta-step.
    compile_again: traces and compiles the same program once more.
  """
  shard = lifetime.make_shard(config, name, num_lifetimes,
                              jax.default_backend())
  eta = rule_vector.ravel(
      rule_vector.init(config.rule, jax.random.PRNGKey(0)))
  arms = jnp.zeros(len(config.agents[name].arms))
  shard_id = lifetime.ShardId(*map(jnp.int32, (0, 0, 0, num_lifetimes)))

  def compile_again(state):
    # A new function each time, since JAX caches the program of a known one.
    advance = jax.jit(lambda *args: shard.advance(*args))
    return advance.lower(eta, arms, state, shard_id, jnp.int32(1)).compile()

  compiled = compile_again(shard.empty())
  _, state, _ = compiled(eta, arms, shard.empty(), shard_id, jnp.int32(0))
  call = lambda: compiled(eta, arms, state, shard_id, jnp.int32(1))
  return call, compiled, state, lambda: compile_again(state)


def _rule_gradient(eta: lpg_network.Eta, seen: rule_inputs.RuleInput):
  """Differentiates the squared targets by eta and by the inputs."""
  def total(eta, seen):
    targets = lpg_network.apply(eta, seen)
    return (jnp.sum(jnp.square(targets.pi_hat))
            + jnp.sum(jnp.square(targets.y_hat_logits)))

  return jax.grad(total, argnums=(0, 1))(eta, seen)


def _meta_loss_gradient(kind: meta_gradient.Kind, config: config_lib.Config,
                        task: meta_gradient.Task, trajectory: types.Trajectory,
                        theta: types.Params) -> types.Params:
  """Differentiates the meta-loss by theta; rewards stand in for advantages."""
  def loss(theta):
    output = meta_gradient.agent_outputs(
        kind, theta, trajectory.observation[:-1], task.env_params)
    return jnp.sum(meta_gradient.meta_loss(
        kind.rule, config.meta, output, trajectory.action, trajectory.reward,
        task.hyper.beta_0, meta_gradient.RegularisationTerms(0., 0., 0.)).loss)

  return jax.grad(loss)(theta)


def part_calls(config: config_lib.Config, name: str,
               state: lifetime.ShardState) -> dict[str, Callable[[], Any]]:
  """Returns a compiled call for each part of a meta-step, by name.

  - `rule`: the targets of one update, forward and backward
  - `agent`: one update of the agents without the rule, and its reverse pass
  - `acting`: the collection of one trajectory
  - `critic`: one update of the critics
  - `outer`: the gradient of the meta-loss, Eq. (4), by theta

  A meta-step runs `outer` once and each other part K times.
  """
  kind = lifetime.make_kind(config, name)
  task, progress = state.task, state.progress
  num_lifetimes = state.age.shape[0]
  keys = jax.random.split(jax.random.PRNGKey(1), num_lifetimes)
  eta = rule_vector.init(config.rule, jax.random.PRNGKey(0))
  outputs = lambda theta: meta_gradient.agent_outputs(
      kind, theta, progress.trajectory.observation, task.env_params)
  hyper = meta_gradient.agent_hyper(task.hyper, config.outer.td_lambda)

  def inputs(output):
    age = agent_life.begin(kind.rule, num_lifetimes, 1)
    experience = base.Experience(
        progress.trajectory, output,
        agent_life.see_each(kind.rule, age, progress.reward_square))
    return rule_inputs.rule_input(experience, hyper,
                                  kind.rule.y_input(experience), config.rule)

  seen = jax.jit(lambda theta: inputs(outputs(theta)))(progress.theta)
  answer = jax.jit(lpg_network.apply)(eta, seen)
  targets = base.Targets(answer.pi_hat, answer.y_hat_logits)

  def agent(theta, targets):
    """Runs an update and its reverse pass, with given targets."""
    def update(theta, targets):
      gradient, output, _ = agent_update.agent_gradient(
          kind.rule, outputs, theta, lambda _: targets,
          progress.trajectory.action, hyper,
          config.meta.trajectory_steps * config.meta.num_envs)
      theta, _ = jax.vmap(kind.optimiser.apply)(
          gradient, progress.opt_state, theta, task.hyper.learning_rate)
      return theta, inputs(output)
    out, pullback = jax.vjp(update, theta, targets)
    return pullback(out)

  def acting(theta):
    return meta_gradient.collect(
        kind, config.meta, task, progress._replace(theta=theta), keys)

  def critic(value):
    return meta_gradient.learn_values(
        kind, task, progress._replace(value=value))

  def outer(theta):
    return _meta_loss_gradient(kind, config, task, progress.trajectory, theta)

  def compiled(function, *args):
    function = lifetime.with_matmul_precision(
        config.run.matmul_precision, function)
    run = jax.jit(function).lower(*args).compile()
    return lambda: run(*args)

  return {
      'rule': compiled(_rule_gradient, eta, seen),
      'agent': compiled(agent, progress.theta, targets),
      'acting': compiled(acting, progress.theta),
      'critic': compiled(critic, progress.value),
      'outer': compiled(outer, progress.theta),
  }
