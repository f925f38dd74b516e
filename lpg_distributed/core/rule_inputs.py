"""x_t of Section 3.1: what the rule sees of a step.

Adding an input is one row of `INPUTS`; everything else reads it by its name.
"""

from typing import Callable, Mapping, NamedTuple

import chex
import jax.numpy as jnp

from lpg_distributed.core import distributions
from lpg_distributed.core.update_rules import base

# By name, in the order of the LSTM's inputs: from what was lived to [T, ...].
INPUTS: Mapping[str, Callable[[base.Experience, base.Hyper], chex.Array]] = {
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

# Fields [T, ...] by the names of `INPUTS`, and `y` [T+1, ..., M]: y(s_t) and,
# one further, y(s_{t+1}); phi makes a number of each.
RuleInput = NamedTuple('RuleInput', [(name, chex.Array)
                                     for name in (*INPUTS, 'y')])


def rule_input(experience: base.Experience, hyper: base.Hyper,
               y: chex.Array) -> RuleInput:
  """What the rule sees; differentiable in the agent's outputs.

  Args:
    experience: leaves [T, ...], and [T+1, ..., .] of the agent's outputs.
    hyper: broadcasts against [...].
    y: [T+1, ..., M], the agent's predictions, or what stands in their place.
  """
  return RuleInput(y=y, **{name: compute(experience, hyper)
                           for name, compute in INPUTS.items()})


def flatten(inputs: RuleInput) -> RuleInput:
  """All batch axes as one: leaves [T, N], and y [T+1, N, M]."""
  def flat(x, num_behind):
    behind = x.shape[x.ndim - num_behind:]
    return x.reshape(x.shape[0], -1, *behind)

  return RuleInput(y=flat(inputs.y, 1), **{
      name: flat(getattr(inputs, name), 0) for name in INPUTS})
