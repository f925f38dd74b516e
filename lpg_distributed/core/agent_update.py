"""An agent's update: the gradient of its rule's loss, and its optimiser."""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lpg_distributed import types
from lpg_distributed.core.update_rules import base


class AgentOptimiser(NamedTuple):
  """An optimiser whose learning rate is an argument.

  One compiled function therefore serves all of the bandit's arms.
  """
  init: Callable[[types.Params], optax.OptState]
  # (gradient, state, theta, learning_rate) -> (theta, state)
  apply: Callable[..., tuple[types.Params, optax.OptState]]


def make_optimiser(name: str) -> AgentOptimiser:
  """Returns `sgd` or `adam`; both can be differentiated through.

  The second moment of a weight without gradients is 0, where the slope of
  Adam's square root is infinite. `eps_root` makes the slope finite; its root is
  the usual `eps` of 1e-8.
  """
  scale = {'sgd': optax.identity,
           'adam': lambda: optax.scale_by_adam(eps_root=1e-16)}[name]()

  def apply(gradient, state, theta, learning_rate):
    updates, state = scale.update(gradient, state)
    theta = jax.tree_util.tree_map(
        lambda p, u: p - learning_rate * u, theta, updates)
    return theta, state

  return AgentOptimiser(scale.init, apply)


def agent_gradient(
    rule: base.UpdateRule,
    apply: Callable[[types.Params], types.AgentOutput],
    theta: types.Params,
    compute_targets: Callable[[types.AgentOutput], base.Targets],
    action: jax.Array,
    hyper: base.UpdateHyperparameters,
    steps_per_agent: int,
) -> tuple[types.Params, types.AgentOutput, base.Targets]:
  """Computes the gradient of a rule's loss, to descend.

  The loss is the mean over the steps of each agent. Rule and gradient share one
  forward pass of the agent.

  This gradient treats the targets as constants. The meta-gradient does not:
  there is no `stop_gradient`, so it flows through the targets into the `theta`
  that produced the rule's inputs. By this path the rule can discover what y
  predicts.

  Args:
    rule: provides the loss.
    apply: maps theta to outputs [T+1, ..., .] on the trajectory's states.
    theta: parameters of one agent, or of several with independent outputs.
    compute_targets: maps those outputs to the rule's targets.
    action: [T, ...].
    hyper: broadcasts against [...].
    steps_per_agent: T * B, the number of steps that the mean is taken over.

  Returns:
    The gradient, shaped as `theta`; the outputs; the targets.
  """
  output, pullback = jax.vjp(apply, theta)
  targets = compute_targets(output)

  def mean_loss(output):
    acting = jax.tree_util.tree_map(lambda x: x[:-1], output)
    return jnp.sum(rule.loss(acting, action, targets, hyper)) / steps_per_agent

  (gradient,) = pullback(jax.grad(mean_loss)(output))
  return gradient, output, targets
