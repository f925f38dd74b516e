"""A rule for tests: a linear weight per input, no predictions, no values."""

import jax
import jax.numpy as jnp

from lpg_distributed.core import rule_inputs
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import lpg


def _y_input(experience):
  return experience.output.logits


def _compute_targets(eta, experience, hyper):
  inputs = rule_inputs.rule_input(experience, hyper, _y_input(experience))
  pi_hat = sum(eta['weights'][i] * getattr(inputs, name)
               for i, name in enumerate(rule_inputs.INPUTS))
  return base.Targets(pi_hat), {'pi_hat_square': jnp.square(pi_hat)}


def _loss(output, action, targets, hyper):
  del hyper
  return lpg.policy_loss(output, action, targets.pi_hat)


def make(config, network=None):
  """A weight for each input."""
  del config, network
  init = lambda key: {'weights': jax.random.normal(
      key, (len(rule_inputs.INPUTS),))}
  return base.UpdateRule(
      outputs=base.Outputs(), compute_targets=_compute_targets, loss=_loss,
      init=init, y_input=_y_input)
