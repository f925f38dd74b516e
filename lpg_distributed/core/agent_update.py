"""How an agent changes: Eqs. (2) and (7), and the agent's optimiser."""

from typing import Callable, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from lpg_distributed import types


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


def log_probability(logits: chex.Array, action: chex.Array) -> chex.Array:
  """log pi(a|s), [...]; `logits` [..., A], `action` [...] int32."""
  # A product with a one-hot row: on a CPU cheaper than a gather, twice so
  # when differentiated twice.
  chosen = action[..., None] == jnp.arange(logits.shape[-1])
  return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(logits), 0.), axis=-1)


def rule_input(output: types.AgentOutput, trajectory: types.Trajectory,
               gamma: chex.Array,
               represent: Callable[[chex.Array], chex.Array] = jax.nn.softmax
               ) -> types.RuleInput:
  """What the rule sees (Section 3.1); differentiable in `output`.

  Args:
    output: the agent's answer to `trajectory.observation`, [T+1, ..., .].
    trajectory: leaves [T, ...].
    gamma: broadcasts against [...], the batch axes behind T.
    represent: the agent's further outputs to what the rule sees as y.
  """
  log_pi = log_probability(output.logits[:-1], trajectory.action)
  return types.RuleInput(
      reward=trajectory.reward,
      discount_t=trajectory.discount_t,
      gamma=jnp.broadcast_to(gamma, trajectory.reward.shape),
      action_probability=jnp.exp(log_pi),
      y=represent(output.y_logits))


def kl_divergence(p_logits: chex.Array, q_logits: chex.Array) -> chex.Array:
  """D_KL(p || q) of categorical distributions over the last axis."""
  log_p = jax.nn.log_softmax(p_logits)
  log_q = jax.nn.log_softmax(q_logits)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def agent_loss(output: types.AgentOutput, trajectory: types.Trajectory,
               targets: types.LPGTargets, alpha_y: chex.Array,
               baseline: Optional[chex.Array] = None,
               distance: Callable[[chex.Array, chex.Array], chex.Array]
               = kl_divergence) -> chex.Array:
  """Per-step loss of Eq. (2), negated for minimisation; [T, ...].

  Args:
    output: [T+1, ..., .]; the last step has no action and no loss.
    trajectory: leaves [T, ...].
    targets: the rule's; constants of the inner gradient, so call this with
      targets computed outside.
    alpha_y: broadcasts against [...].
    baseline: f(s), [T, ...], for Eq. (7): it is subtracted from `pi_hat` as a
      constant and regressed on it. None for Eq. (2).
    distance: of y from y_hat; Eq. (2)'s, or that of an ablation.
  """
  log_pi = log_probability(output.logits[:-1], trajectory.action)
  kl = distance(output.y_logits[:-1], targets.y_hat_logits)
  advantage, regression = targets.pi_hat, 0.
  if baseline is not None:
    advantage = targets.pi_hat - jax.lax.stop_gradient(baseline)
    regression = 0.5 * jnp.square(baseline - targets.pi_hat)
  return -(log_pi * advantage - alpha_y * kl - regression)


def agent_gradient(
    apply: Callable[[types.Params], types.AgentOutput],
    theta: types.Params,
    compute_targets: Callable[[types.AgentOutput], types.LPGTargets],
    trajectory: types.Trajectory,
    alpha_y: chex.Array,
    steps_per_agent: int,
    distance: Callable[[chex.Array, chex.Array], chex.Array] = kl_divergence,
) -> tuple[types.Params, types.AgentOutput, types.LPGTargets]:
  """Eq. (2)'s gradient, negated for minimisation, mean over an agent's steps.

  One forward pass of the agent serves both the rule and the gradient. The
  targets are constants of this gradient, but whoever differentiates the
  result, as the meta-gradient does, sees through them into `theta`: nothing is
  stopped on that path, which is how a meaning of y is discovered.

  Args:
    apply: theta to outputs [T+1, ..., .] on the trajectory's states.
    theta: parameters of one agent, or of several with independent outputs.
    compute_targets: the rule, on those outputs.
    trajectory: leaves [T, ...].
    alpha_y: broadcasts against the batch axes behind T.
    steps_per_agent: T * B, what the mean is over.
    distance: see `agent_loss`.
  """
  output, pullback = jax.vjp(apply, theta)
  targets = compute_targets(output)

  def mean_loss(output):
    losses = agent_loss(output, trajectory, targets, alpha_y,
                        distance=distance)
    return jnp.sum(losses) / steps_per_agent

  (gradient,) = pullback(jax.grad(mean_loss)(output))
  return gradient, output, targets
