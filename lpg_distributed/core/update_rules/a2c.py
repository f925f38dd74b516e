"""A2C (Mnih et al., 2016): advantage actor-critic with lambda-returns."""

import jax.numpy as jnp

from lpg_distributed.core import distributions
from lpg_distributed.core.update_rules import base


def _compute_targets(eta, experience, hyper):
  del eta
  value = experience.output.value[:-1]
  returns = base.value_targets(experience, hyper)
  advantage = returns - value
  return base.Targets(advantage, value=returns), {
      'advantage_square': jnp.square(advantage), 'value': value}


def _loss(output, action, targets, hyper):
  """Computes the loss of each step, [T, ...].

  It is the loss of the policy gradient plus the weighted error of V(s) minus
  the weighted entropy of the policy.
  """
  log_pi = distributions.log_probability(output.logits, action)
  return (-log_pi * targets.pi_hat
          + base.value_loss(output, targets, hyper)
          - hyper.entropy_cost * distributions.entropy(output.logits))


def make(config=None, network=None) -> base.UpdateRule:
  """Makes A2C; it has no eta, so `config` and `network` are ignored."""
  del config, network
  return base.UpdateRule(outputs=base.Outputs(value=True),
                         compute_targets=_compute_targets, loss=_loss)
