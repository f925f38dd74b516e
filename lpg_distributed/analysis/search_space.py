"""The hyperparameters that `tuning` searches, and their ranges.

A value x is drawn so that log x is uniform. For gamma and lambda, log(1 - x) is
uniform.
"""

import math
from typing import Mapping, NamedTuple

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core.update_rules import registry

# A range is widened if the best value is within this fraction of its width from
# an end.
_EDGE = 0.125
_WIDENING = 0.25  # Ranges are widened by this fraction of their width.
Values = Mapping[str, float]  # hyperparameters by name


class Range(NamedTuple):
  """The range of a hyperparameter; `low` to `high`."""
  low: float
  high: float
  least: float  # limits of widening
  greatest: float
  complement: bool = False  # whether log(1 - x) is uniform, not log x

  def place(self, value: float) -> float:
    """Returns the coordinate in which values are uniform; it rises with x."""
    value = min(max(value, self.least), self.greatest)
    return -math.log(1. - value) if self.complement else math.log(value)

  def value(self, place: float) -> float:
    """The inverse of `place`, within the limits, with five digits."""
    value = 1. - math.exp(-place) if self.complement else math.exp(place)
    return float(f'{min(max(value, self.least), self.greatest):.5g}')

  @property
  def width(self) -> float:
    """The width of the range in the coordinate of `place`."""
    return self.place(self.high) - self.place(self.low)

  def edge(self, value: float) -> int:
    """Returns -1 or 1 if the value is at the lower or upper end, else 0.

    An end at a limit of widening does not count, since it cannot be widened.
    """
    at, margin = self.place(value), _EDGE * self.width
    if at > self.place(self.high) - margin and self.high < self.greatest:
      return 1
    if at < self.place(self.low) + margin and self.low > self.least:
      return -1
    return 0

  def widened(self, best: float) -> 'Range':
    """Returns the range, widened if `best` is at an end of it."""
    edge, at = self.edge(best), self.place(best)
    more = _WIDENING * self.width
    if edge > 0:
      return self._replace(high=self.value(
          max(at, self.place(self.high)) + more))
    if edge < 0:
      return self._replace(low=self.value(min(at, self.place(self.low)) - more))
    return self

  def around(self, best: float, fraction: float) -> 'Range':
    """Returns the part within `fraction` of the width, to both sides."""
    at, more = self.place(best), fraction * self.width
    inside = lambda x: self.value(
        min(max(x, self.place(self.low)), self.place(self.high)))
    return self._replace(low=inside(at - more), high=inside(at + more))

  def draw(self, rng: np.random.Generator) -> float:
    """Draws a value."""
    return self.value(rng.uniform(self.place(self.low), self.place(self.high)))


Space = Mapping[str, Range]

# From the smallest of Table 3's learning rates to this multiple of the largest.
# LPG learns the scale of its targets for these rates; A2C does not.
LARGEST_RATE = 8.
ENTROPY_COST = Range(0.001, 0.1, 1e-5, 1.)
KL_COST = Range(0.1, 5., 1e-3, 100.)
TABLE_CRITIC_RATE = Range(0.05, 1., 1e-3, 1.)
NETWORK_CRITIC_RATE = Range(0.0005, 0.02, 1e-5, 0.2)
TD_LAMBDA = Range(0.5, 0.98, 0.05, 0.999, complement=True)
GAMMA = Range(0.95, 0.997, 0.5, 0.9999, complement=True)


def _learning_rate(environment: str, agent: config_lib.AgentConfig) -> Range:
  rates = config_lib.ALL_AGENTS.get(environment, agent).learning_rates
  low, high = min(rates), max(rates) * LARGEST_RATE
  return Range(low, high, low / 1e3, high * 1e3)


def _critic(agent: config_lib.AgentConfig) -> dict[str, Range]:
  return {'critic_rate': (TABLE_CRITIC_RATE if agent.is_table
                          else NETWORK_CRITIC_RATE), 'td_lambda': TD_LAMBDA}


def of_a2c(environment: str, agent: config_lib.AgentConfig) -> Space:
  """Returns the ranges of A2C, the fields of `baselines.A2CHyperparameters`."""
  return {'learning_rate': _learning_rate(environment, agent),
          'entropy_cost': ENTROPY_COST, **_critic(agent), 'gamma': GAMMA}


def of_rule(environment: str, agent: config_lib.AgentConfig,
            rule: config_lib.RuleConfig) -> Space:
  """Returns the ranges of the hyperparameters of a rule's agents.

  A rule without predictions, LPG-V, has no KL cost, but its critic's
  hyperparameters are searched. gamma is not: it is an input of the rule, so
  agents draw it as in the rule's training.
  """
  rates = {'learning_rate': _learning_rate(environment, agent)}
  if registry.make_learned(rule).predictions is None:
    return {**rates, **_critic(agent)}
  return {**rates, 'kl_cost': KL_COST}


def default_a2c(environment: str, config: config_lib.Config) -> Values:
  """Returns A2C's numbers before a search: those of Tables 2 and 3."""
  agent, outer = config.agents[environment], config.outer
  known = config_lib.ALL_AGENTS.get(environment, agent)
  return {'learning_rate': max(known.learning_rates),
          'entropy_cost': max(config.meta.policy_entropy_costs),
          'critic_rate': (outer.table_learning_rate if agent.is_table
                          else outer.network_learning_rate),
          'td_lambda': outer.td_lambda,
          'gamma': max(config.meta.gammas)}


def default_rule(environment: str, config: config_lib.Config,
                 arm: int) -> Values:
  """Returns the numbers of a rule's agents before a search.

  Args:
    environment: name of the environment kind.
    config: configuration of the rule's training.
    arm: row of the grid of (learning rate, KL cost) pairs.
  """
  rate, cost = config.agents[environment].arms[arm]
  first = {**default_a2c(environment, config), 'learning_rate': rate,
           'kl_cost': cost}
  return {name: first[name] for name in of_rule(
      environment, config.agents[environment], config.rule)}
