"""LPG (Oh et al., 2020): Eq. (2), and Eq. (7) for agents with a baseline."""

import functools

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import distributions
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core.update_rules import base

CATEGORICAL = base.Predictions(
    jax.nn.softmax, distributions.kl_divergence, is_distribution=True,
    padding=distributions.MASKED_LOGIT)


def policy_loss(output: types.AgentOutput, action: chex.Array,
                pi_hat: chex.Array) -> chex.Array:
  """Computes the part of `loss` that does not depend on y, [T, ...].

  Args:
    output: if `baseline`, f(s) of Eq. (7), is not None, it is subtracted from
      `pi_hat` as a constant and regressed on it. If it is None, Eq. (2) holds.
    action: [T, ...].
    pi_hat: [T, ...].
  """
  log_pi = distributions.log_probability(output.logits, action)
  if output.baseline is None:
    return -log_pi * pi_hat
  return (-log_pi * (pi_hat - jax.lax.stop_gradient(output.baseline))
          + 0.5 * jnp.square(output.baseline - pi_hat))


def loss(predictions: base.Predictions, output: types.AgentOutput,
         action: chex.Array, targets: base.Targets,
         hyper: base.UpdateHyperparameters
         ) -> chex.Array:
  """The loss of each step, [T, ...], whose gradient is minus Eq. (2) or (7).

  Eq. (2): -log pi(a|s) pi_hat + alpha_y D_KL(y(s) || y_hat). If
  `output.baseline`, f(s), is not None, Eq. (7): see `policy_loss`.

  Args:
    predictions: defines the distance, D_KL for `CATEGORICAL`.
    output: outputs of the agent, leaves [T, ..., .].
    action: [T, ...].
    targets: pi_hat and y_hat, constants of the gradient.
    hyper: `kl_cost` is alpha_y.
  """
  return (policy_loss(output, action, targets.pi_hat)
          + hyper.kl_cost * predictions.distance(
              output.y_logits, targets.y_hat_logits))


def make_with(config: config_lib.RuleConfig,
              predictions: base.Predictions,
              network: base.Network) -> base.UpdateRule:
  """Makes LPG with the given interpretation of y and the given network."""
  def y_input(experience):
    return predictions.represent(experience.output.y_logits)

  def compute_targets(eta, experience, hyper):
    output = experience.output
    targets = network(eta, rule_inputs.rule_input(
        experience, hyper, y_input(experience), config))
    metrics = {}
    if predictions.is_distribution:
      metrics['y_entropy'] = distributions.entropy(output.y_logits[:-1])
    metrics['kl'] = predictions.distance(output.y_logits[:-1],
                                         targets.y_hat_logits)
    metrics['pi_hat_square'] = jnp.square(targets.pi_hat)
    if output.baseline is not None:
      metrics['value'] = output.baseline[:-1]
    return base.Targets(targets.pi_hat, targets.y_hat_logits), metrics

  return base.UpdateRule(
      outputs=base.Outputs(config.num_predictions, baseline=True),
      compute_targets=compute_targets,
      loss=functools.partial(loss, predictions),
      init=functools.partial(lpg_network.init, config, lpg_network.Widths(
          y=config.num_predictions, y_hat=config.num_predictions)),
      predictions=predictions, y_input=y_input,
      widen=functools.partial(lpg_network.widen, padding=predictions.padding),
      sees_age=config.sees_age, reward_input=config.reward_input)


def make(config: config_lib.RuleConfig,
         network: base.Network = lpg_network.apply) -> base.UpdateRule:
  """Makes LPG as in the paper: y and y_hat are categorical distributions."""
  return make_with(config, CATEGORICAL, network)
