"""PPO (Schulman et al., 2017): several updates, by a clipped surrogate loss."""

import jax
import jax.numpy as jnp

from lpg_distributed import light_imports
from lpg_distributed.core import distributions
from lpg_distributed.core.update_rules import a2c
from lpg_distributed.core.update_rules import base

_A2C = a2c.make()
_EPSILON = 1e-8  # keeps the normalised advantages finite if all are equal


def _compute_targets(eta, experience, hyper):
  """Returns A2C's targets, whose advantages are GAE, and log pi(a|s)."""
  targets, metrics = _A2C.compute_targets(eta, experience, hyper)
  return targets._replace(behaviour_log_pi=distributions.log_probability(
      experience.output.logits[:-1], experience.trajectory.action)), metrics


def _normalise(targets):
  """Gives the advantages of a minibatch mean 0 and standard deviation 1."""
  advantage = targets.pi_hat
  return targets._replace(pi_hat=(advantage - jnp.mean(advantage)) / (
      jnp.std(advantage) + _EPSILON))


def _loss(output, action, targets, hyper):
  """Computes the loss of each step, [T, ...].

  It is the clipped surrogate loss of the policy plus the weighted error of V(s)
  minus the weighted entropy of the policy.
  """
  ratio = jnp.exp(distributions.log_probability(output.logits, action)
                  - targets.behaviour_log_pi)
  # RLax returns the mean over a batch. Here each step is a batch of its own.
  surrogate = jax.vmap(light_imports.import_rlax().clipped_surrogate_pg_loss,
                       in_axes=(0, 0, None))(
      ratio.reshape(-1, 1), targets.pi_hat.reshape(-1, 1), hyper.clip_range)
  return (surrogate.reshape(ratio.shape)
          + base.value_loss(output, targets, hyper)
          - hyper.entropy_cost * distributions.entropy(output.logits))


def make(config=None, network=None) -> base.UpdateRule:
  """Makes PPO; it has no eta, so `config` and `network` are ignored."""
  del config, network
  return base.UpdateRule(
      outputs=base.Outputs(value=True), compute_targets=_compute_targets,
      loss=_loss, several_passes=True, minibatch_targets=_normalise)
