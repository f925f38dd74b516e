"""Chooses agents' hyperparameters: by a rule's bandit, or by a search.

A2C uses the best pair of its grid. So does a rule whose bandit does not know
the kind. The search uses lifetimes that no figure shows.
"""

import dataclasses
from typing import Any, Callable, Optional, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import curves
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import training_settings as settings_lib
from lpg_distributed.core import baselines
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry

Pair = tuple[float, float]  # two hyperparameters
# Folded into the key of the seed, so that lifetimes differ from the compared.
STREAM = 1
_FINALISTS = 4  # number of pairs in the second round of tuning


def only_arm(arm: int, num_arms: int) -> np.ndarray:
  """Returns log-probabilities, [arms], that always draw `arm`."""
  with np.errstate(divide='ignore'):
    return np.log(np.eye(num_arms, dtype=np.float32)[arm])


class Log:
  """The results of a search so far, from which it can resume."""

  def __init__(self, rows: Sequence[Sequence[Any]] = (),
               keep: Callable[[list[list[Any]]], None] = lambda rows: None):
    """Starts with `rows`, and passes all rows to `keep` after each new one.

    Args:
      rows: [round, *pair, final return, mean over the curve]. None stands for
        minus infinity, which JSON lacks. Rows hold pairs by value instead of by
        index, since the grid may change before a resume.
      keep: called with all rows.
    """
    number = lambda x: -np.inf if x is None else x
    self._found = {tuple(at): (number(final), number(whole))
                   for *at, final, whole in rows}
    self._keep = keep

  def get(self, index: int, pair: Pair) -> Optional[tuple[float, float]]:
    """Returns both returns of a pair in a round; None if not yet known."""
    return self._found.get((index, *pair))

  def add(self, index: int, pair: Pair, final: float, whole: float) -> None:
    """Adds a pair's returns in a round, and calls `keep`."""
    self._found[(index, *pair)] = final, whole
    self._keep([[*at, *score] for at, score in self._found.items()])


def tune(pairs: Sequence[Pair], make: Callable[[int], Callable[
    [int, chex.PRNGKey], train_agents.Lifetimes]],
         settings: settings_lib.ComparisonSettings,
         report: Callable[[str], None],
         log: Optional[Log] = None) -> tuple[int, list[float]]:
  """Finds the best pair of a grid in two rounds.

  The first round selects `_FINALISTS` pairs by a few lifetimes each. The second
  round selects one of them by more lifetimes: the best of many noisy means is
  often the best by chance. All pairs get the same layouts.

  Args:
    pairs: the grid.
    make: maps a number of lifetimes to a function that simulates them, given
      the index of a pair and a key.
    settings: numbers of lifetimes.
    report: called with a message about each round.
    log: results that are not computed again; new ones are added.

  Returns:
    Index of the best pair by final return; ties, which chains have, are broken
    by the mean return over training. Final returns of all pairs, each from the
    last round that the pair was in.
  """
  key = evaluation.held_out_key(settings.seed, STREAM)
  log = log or Log()
  final = [-np.inf] * len(pairs)
  ranked = list(range(len(pairs)))
  for index, (num, kept) in enumerate((
      (settings.tuning_lifetimes, _FINALISTS), (settings.final_lifetimes, 1))):
    report(f'{len(ranked)} pairs, {num} lifetimes of each')
    simulate = make(num)
    whole = {}
    for pair in ranked:
      score = log.get(index, pairs[pair])
      if score is None:
        some = simulate(pair, jax.random.fold_in(key, index))
        bounds = curves.bins(len(some.episode_return), settings.points)
        found = curves.row([some], bounds, num)
        score = tuple(float(np.nan_to_num(np.mean(found[what]), nan=-np.inf))
                      for what in ('final', 'whole'))
        log.add(index, pairs[pair], *score)
      final[pair], whole[pair] = score
    ranked.sort(reverse=True, key=lambda i: (round(final[i], 2), whole[i]))
    ranked = ranked[:kept]
  return ranked[0], final


def with_a2c_rates(config: config_lib.Config,
                   environment: str) -> config_lib.Config:
  """Returns `config` with A2C's learning rates for a rule's agents."""
  agent = config.agents[environment]
  # Without predictions the KL cost has no effect, so one value suffices.
  kl_costs = agent.kl_costs
  if registry.make_learned(config.rule).predictions is None:
    kl_costs = kl_costs[:1]
  agent = dataclasses.replace(
      agent, learning_rates=baselines.learning_rates(agent), kl_costs=kl_costs)
  return dataclasses.replace(
      config, agents={**config.agents, environment: agent})


def tune_rule(config: config_lib.Config, environment: str, eta: np.ndarray,
              settings: settings_lib.ComparisonSettings,
              report: Callable[[str], None],
              log: Optional[Log] = None) -> dict[str, Any]:
  """Finds the arm with which a rule's agents have the best final return.

  Returns:
    `arm`; `arms`, all pairs; `final`, their final returns.
  """
  arms = config.agents[environment].arms

  def make(num):
    simulate = evaluation.LifetimeSimulator(config, environment, num)
    return lambda arm, key: simulate(eta, key, only_arm(arm, len(arms)))

  arm, final = tune(arms, make, settings, report, log)
  return {'arm': arm, 'arms': arms, 'final': final}


def a2c_simulator(config: config_lib.Config, environment: str, num: int
                  ) -> Callable[[Sequence[float], chex.PRNGKey],
                                train_agents.Lifetimes]:
  """Compiles a function that simulates `num` lifetimes of A2C.

  Its arguments are a pair of `baselines.grid` and a key.
  """
  train = jax.jit(lambda pair, key: baselines.train_a2c(
      config, environment, key, jnp.tile(pair, (num, 1)))._replace(
          theta=(), env_params=()))
  return lambda pair, key: jax.tree_util.tree_map(
      np.asarray, train(jnp.asarray(pair, jnp.float32), key))


def tune_a2c(config: config_lib.Config, environment: str,
             settings: settings_lib.ComparisonSettings,
             report: Callable[[str], None],
             log: Optional[Log] = None) -> dict[str, Any]:
  """Finds the pair of `baselines.grid` with which A2C has the best return."""
  pairs = baselines.grid(config.agents[environment])

  def make(num):
    simulate = a2c_simulator(config, environment, num)
    return lambda index, key: simulate(pairs[index], key)

  best, final = tune(pairs, make, settings, report, log)
  return {'learning_rate': pairs[best][0], 'entropy_cost': pairs[best][1],
          'final': final, 'pairs': pairs}


def choose_arm(source: sources.Source, config: config_lib.Config,
               environment: str, settings: settings_lib.ComparisonSettings,
               report: Callable[[str], None], log: Optional[Log] = None
               ) -> dict[str, Any]:
  """Chooses the hyperparameters of a rule's agents.

  Args:
    source: the rule. An untrained rule uses the hyperparameters of the rule
      that it is the control of. If there are none, or rules are tuned, it draws
      them uniformly.
    config: result of `training_environments.sized`.
    environment: name of the environment kind.
    settings: settings of the comparison.
    report: see `tune`.
    log: see `tune`.

  Returns:
    `arm`, None if hyperparameters are drawn; `arms`, the pairs; if the rule was
    tuned, also `final`, see `tune_rule`.
  """
  agent = config.agents[environment]
  arm = (None if settings.tune
         else source.preferred_arm(environment, agent))
  if arm is None and not source.about.get('untrained'):
    return tune_rule(config, environment, source.eta, settings, report, log)
  return {'arm': arm, 'arms': agent.arms}
