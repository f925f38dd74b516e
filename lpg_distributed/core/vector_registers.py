"""Widens predictions so that they fill whole vector registers of a CPU.

Loops over 32 columns are faster than loops over 30.
"""

from typing import Callable

import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.core import lpg_network
from lpg_distributed.core.update_rules import base

# Number of floats in a vector register; all current CPUs have at least so many.
_FLOATS_PER_REGISTER = 8


def widen_predictions(
    rule: base.UpdateRule, eta: lpg_network.Eta
) -> tuple[lpg_network.Eta, Callable[[types.AgentOutput], types.AgentOutput]]:
  """Widens eta to a multiple of a register's width.

  The additional columns do not change the rule's targets.

  Returns:
    The widened eta, and a function that pads an `AgentOutput` to its width. If
    the rule cannot be widened, both change nothing.
  """
  num_columns = rule.outputs.num_predictions
  padding = -num_columns % _FLOATS_PER_REGISTER
  widened = None
  if rule.widen and padding:
    widened = rule.widen(eta, num_columns + padding)
  if widened is None:
    return eta, lambda output: output

  def pad(output):
    axes = [(0, 0)] * (output.y_logits.ndim - 1)
    return output._replace(y_logits=jnp.pad(
        output.y_logits, [*axes, (0, padding)],
        constant_values=rule.predictions.padding))

  return widened, pad
