"""x_t of Section 3.1: the inputs of the rule at a step.

To add an input, add a row to `INPUTS`. The network, training, `hold_input`, the
means of inputs and the public interface read this table. docs/extending.md
names the experiments that have lists of their own.
"""

import collections
from typing import Any, Callable, Mapping, Optional

import chex
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed.core import agent_life
from lpg_distributed.core import distributions
from lpg_distributed.core.update_rules import base

# For each input, in the order of the LSTM's inputs: its name, and a function
# from the experience to its values [T, ...].
INPUTS: Mapping[str, Callable[
    [base.Experience, base.UpdateHyperparameters], chex.Array]] = {
    # r_t, changed by `rule.reward_input`
    'reward': lambda e, hyper: e.trajectory.reward,
    # d_t: 0 where the transition ended its episode.
    'discount_t': lambda e, hyper: e.trajectory.discount_t,
    'gamma': lambda e, hyper: jnp.broadcast_to(
        hyper.gamma, e.trajectory.reward.shape),
    # pi(a_t|s_t)
    'action_probability': lambda e, hyper: jnp.exp(
        distributions.log_probability(e.output.logits[:-1],
                                      e.trajectory.action)),
}
# Inputs after those of `INPUTS` if `rule.sees_age`: fields of `base.Life`.
AGE_INPUTS = ('relative_age', 'log_lifetime')

# A field [T, ...] for each name in `INPUTS`; `y`, [T+1, ..., M]: row t is
# y(s_t), which the network maps to a number, phi(y(s_t)); and a field [T, ...]
# for each name in `AGE_INPUTS`, None if the rule does not see the age.
RuleInput: Any = collections.namedtuple(
    'RuleInput', [*INPUTS, 'y', *AGE_INPUTS], defaults=[None] * len(AGE_INPUTS))


class MissingInputError(errors.UserError, ValueError):
  """The rule sees what the caller does not give; the message is one line."""


def names(config: config_lib.RuleConfig) -> tuple[str, ...]:
  """Returns the names of a rule's inputs but y, in the order of the LSTM's."""
  return (*INPUTS, *(AGE_INPUTS if config.sees_age else ()))


def index(name: str) -> int:
  """Returns the row of an input in the LSTM's weights."""
  return [*INPUTS, *AGE_INPUTS].index(name)


def from_life(config: config_lib.RuleConfig, reward: chex.Array,
              life: base.Life) -> dict[str, chex.Array]:
  """Returns the inputs that depend on the agent's life, [T, ...], by name.

  Args:
    config: decides which inputs the rule has.
    reward: [T, ...], the true rewards.
    life: leaves broadcast against [T, ...].

  Raises:
    MissingInputError: `life` lacks what the rule sees.
  """
  needed = (*(AGE_INPUTS if config.sees_age else ()),
            *(['reward_rms'] if config.reward_input == 'normalised' else ()))
  for name in needed:
    if getattr(life, name) is None:
      raise MissingInputError(
          f'this rule needs {name} of the agent\'s life, which the caller does '
          f'not give; needed: {", ".join(needed)}')
  return {
      'reward': agent_life.reward_input(
          config.reward_input, reward, life.reward_rms),
      **{name: jnp.broadcast_to(getattr(life, name), jnp.shape(reward))
         for name in needed if name in AGE_INPUTS}}


def rule_input(experience: base.Experience, hyper: base.UpdateHyperparameters,
               y: chex.Array, config: Optional[config_lib.RuleConfig] = None
               ) -> RuleInput:
  """Computes the rule's inputs; differentiable in the agent's outputs.

  Args:
    experience: the trajectory, leaves [T, ...]; outputs, leaves [T+1, ..., .].
    hyper: broadcasts against [...].
    y: [T+1, ..., M], the agent's predictions; in LPG-V, V(s), M = 1.
    config: decides which inputs the rule has; None: those of the paper.

  Returns:
    One field [T, ...] for each name of `names(config)`, and `y`.

  Raises:
    MissingInputError: `experience.life` lacks what the rule sees.
  """
  trajectory = experience.trajectory
  found = from_life(config or config_lib.RuleConfig(), trajectory.reward,
                    experience.life)
  experience = experience._replace(
      trajectory=trajectory._replace(reward=found.pop('reward')))
  return RuleInput(y=y, **found, **{name: compute(experience, hyper)
                                    for name, compute in INPUTS.items()})


def flatten(inputs: RuleInput) -> RuleInput:
  """Flattens all batch axes into one: leaves [T, N], and y [T+1, N, M]."""
  def flat(x, num_last=0):
    """Keeps the first axis and the last `num_last` axes."""
    last = x.shape[x.ndim - num_last:]
    return x.reshape(x.shape[0], -1, *last)

  return RuleInput(y=flat(inputs.y, 1), **{
      name: flat(x) for name, x in inputs._asdict().items()
      if name != 'y' and x is not None})


def columns(inputs: RuleInput) -> list[chex.Array]:
  """Returns the inputs but y that the rule has, [T, ...], in their order."""
  found = [getattr(inputs, name) for name in (*INPUTS, *AGE_INPUTS)]
  return [x for x in found if x is not None]
