"""x_t of Section 3.1: the inputs of the rule at a step.

To add an input, add a row to `INPUTS`. The network, training, `hold_input`, the
means of inputs and the public interface read this table. docs/extending.md
names the experiments that have lists of their own.
"""

from typing import Callable, Mapping, NamedTuple

import chex
import jax.numpy as jnp

from lpg_distributed.core import distributions
from lpg_distributed.core.update_rules import base

# For each input, in the order of the LSTM's inputs: its name, and a function
# from the experience to its values [T, ...].
INPUTS: Mapping[str, Callable[
    [base.Experience, base.UpdateHyperparameters], chex.Array]] = {
    'reward': lambda e, hyper: e.trajectory.reward,  # r_t
    # d_t: 0 where the transition ended its episode.
    'discount_t': lambda e, hyper: e.trajectory.discount_t,
    'gamma': lambda e, hyper: jnp.broadcast_to(
        hyper.gamma, e.trajectory.reward.shape),
    # pi(a_t|s_t)
    'action_probability': lambda e, hyper: jnp.exp(
        distributions.log_probability(e.output.logits[:-1],
                                      e.trajectory.action)),
}

# A field [T, ...] for each name in `INPUTS`, and `y`, [T+1, ..., M]: row t is
# y(s_t). The network maps each row to a number, phi(y(s_t)).
RuleInput = NamedTuple('RuleInput', [(name, chex.Array)
                                     for name in (*INPUTS, 'y')])


def rule_input(experience: base.Experience, hyper: base.UpdateHyperparameters,
               y: chex.Array) -> RuleInput:
  """Computes the rule's inputs; differentiable in the agent's outputs.

  Args:
    experience: the trajectory, leaves [T, ...]; outputs, leaves [T+1, ..., .].
    hyper: broadcasts against [...].
    y: [T+1, ..., M], the agent's predictions; in LPG-V, V(s), M = 1.

  Returns:
    One field [T, ...] for each of `INPUTS`, and `y`.
  """
  return RuleInput(y=y, **{name: compute(experience, hyper)
                           for name, compute in INPUTS.items()})


def flatten(inputs: RuleInput) -> RuleInput:
  """Flattens all batch axes into one: leaves [T, N], and y [T+1, N, M]."""
  def flat(x, num_last):
    """Keeps the first axis and the last `num_last` axes."""
    last = x.shape[x.ndim - num_last:]
    return x.reshape(x.shape[0], -1, *last)

  return RuleInput(y=flat(inputs.y, 1), **{
      name: flat(getattr(inputs, name), 0) for name in INPUTS})
