"""LPG-V of Section 4.1: only pi_hat is meta-learned; V(s) replaces y(s).

V(s) is learned by TD(lambda). In meta-training the lifetime's critic learns it;
in meta-testing it is an additional output of the agent.
"""

import functools

import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import lpg


def _y_input(experience):
  return experience.output.value[..., None]


def _compute_targets(config, network, eta, experience, hyper):
  value = experience.output.value
  pi_hat = network(eta, rule_inputs.rule_input(
      experience, hyper, _y_input(experience), config)).pi_hat
  return base.Targets(pi_hat, value=base.value_targets(experience, hyper)), {
      'pi_hat_square': jnp.square(pi_hat), 'value': value[:-1]}


def _loss(output, action, targets, hyper):
  return (lpg.policy_loss(output, action, targets.pi_hat)
          + base.value_loss(output, targets, hyper))


def make(config: config_lib.RuleConfig,
         network: base.Network = lpg_network.apply) -> base.UpdateRule:
  """Makes LPG-V; its phi has one input, and its network no head for y_hat."""
  return base.UpdateRule(
      outputs=base.Outputs(value=True, baseline=True),
      compute_targets=functools.partial(_compute_targets, config, network),
      loss=_loss,
      init=functools.partial(lpg_network.init, config,
                             lpg_network.Widths(y=1, y_hat=0)),
      y_input=_y_input,
      sees_age=config.sees_age, reward_input=config.reward_input)
