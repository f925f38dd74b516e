"""How an agent changes: the gradient of its rule's loss, and its optimiser."""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lpg_distributed import types
from lpg_distributed.core.update_rules import base


class AgentOptimiser(NamedTuple):
  """An optimiser whose learning rate is an argument: one compiled function
  serves all of the bandit's arms."""
  init: Callable[[types.Params], optax.OptState]
  # (gradient, state, theta, alpha_lr) -> (theta, state)
  apply: Callable[..., tuple[types.Params, optax.OptState]]


def make_optimiser(name: str) -> AgentOptimiser:
  """`sgd` or `adam`, both safe to differentiate through.

  Adam's square root has an infinite slope at 0, where an unvisited weight's
  second moment stands; `eps_root` makes it finite, at the size of the usual
  `eps` of 1e-8.
  """
  scale = {'sgd': optax.identity,
           'adam': lambda: optax.scale_by_adam(eps_root=1e-16)}[name]()

  def apply(gradient, state, theta, alpha_lr):
    updates, state = scale.update(gradient, state)
    theta = jax.tree_util.tree_map(
        lambda p, u: p - alpha_lr * u, theta, updates)
    return theta, state

  return AgentOptimiser(scale.init, apply)


def agent_gradient(
    rule: base.UpdateRule,
    apply: Callable[[types.Params], types.AgentOutput],
    theta: types.Params,
    compute_targets: Callable[[types.AgentOutput], base.Targets],
    action: jax.Array,
    hyper: base.Hyper,
    steps_per_agent: int,
) -> tuple[types.Params, types.AgentOutput, base.Targets]:
  """The gradient of a rule's loss, to descend; mean over an agent's steps.

  One forward pass of the agent serves both the rule and the gradient. The
  targets are constants of this gradient, but whoever differentiates the
  result, as the meta-gradient does, sees through them into `theta`: nothing is
  stopped on that path, which is how a meaning of y is discovered.

  Args:
    rule: whose loss it is.
    apply: theta to outputs [T+1, ..., .] on the trajectory's states.
    theta: parameters of one agent, or of several with independent outputs.
    compute_targets: from those outputs, by the rule.
    action: [T, ...].
    hyper: broadcasts against [...].
    steps_per_agent: T * B, what the mean is over.
  """
  output, pullback = jax.vjp(apply, theta)
  targets = compute_targets(output)

  def mean_loss(output):
    acting = jax.tree_util.tree_map(lambda x: x[:-1], output)
    return jnp.sum(rule.loss(acting, action, targets, hyper)) / steps_per_agent

  (gradient,) = pullback(jax.grad(mean_loss)(output))
  return gradient, output, targets
