"""Hyperparameters of agents: that which a bandit likes best, or a search.

A2C, and a rule where its bandit does not know the kind, get the best pair of
their grids, found on lifetimes that no figure shows.
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

Pair = tuple[float, float]  # of hyperparameters
# Folded into the seed's key: other lifetimes than those that are compared.
STREAM = 1
_FINALISTS = 4  # pairs of a grid, in the second round of tuning


def only_arm(arm: int, num_arms: int) -> np.ndarray:
  """[arms], log-probabilities with which this one is drawn."""
  with np.errstate(divide='ignore'):
    return np.log(np.eye(num_arms, dtype=np.float32)[arm])


class Log:
  """What a search has found so far; the same search goes on from it."""

  def __init__(self, rows: Sequence[Sequence[Any]] = (),
               keep: Callable[[list[list[Any]]], None] = lambda rows: None):
    """Begins with `rows`, and tells `keep` all of them after each new one.

    Args:
      rows: [round, *pair, final return, mean over the curve]; None for minus
        infinity, which results have no number for. Pairs are there by what
        they are, since a grid may have changed when the search goes on.
      keep: is told the same.
    """
    number = lambda x: -np.inf if x is None else x
    self._found = {tuple(at): (number(final), number(whole))
                   for *at, final, whole in rows}
    self._keep = keep

  def get(self, index: int, pair: Pair) -> Optional[tuple[float, float]]:
    """Both returns of a pair in a round; None if it was not in it yet."""
    return self._found.get((index, *pair))

  def add(self, index: int, pair: Pair, final: float, whole: float) -> None:
    self._found[(index, *pair)] = final, whole
    self._keep([[*at, *score] for at, score in self._found.items()])


def tune(pairs: Sequence[Pair], make: Callable[[int], Callable[
    [int, chex.PRNGKey], train_agents.Lifetimes]],
         settings: settings_lib.Settings, say: Callable[[str], None],
         log: Optional[Log] = None) -> tuple[int, list[float]]:
  """Finds the best pair of a grid, in two rounds.

  A few lifetimes of each pair choose `_FINALISTS` of them, and more lifetimes
  of these choose one: the best of many means of a few is mostly a lucky one.
  All pairs meet the same layouts.

  Args:
    pairs: the grid.
    make: a number of lifetimes to what lives them, of the pair of an index.
    settings: how many lifetimes.
    say: is told of each round.
    log: what is in it is not done again, and what is done is added to it.

  Returns:
    The pair with the best final return, of equally good ones, as chains have,
    the one that was so earlier; and of all pairs the final return, of the last
    round they were in.
  """
  key = evaluation.held_out_key(settings.seed, STREAM)
  log = log or Log()
  final = [-np.inf] * len(pairs)
  ranked = list(range(len(pairs)))
  for index, (num, kept) in enumerate((
      (settings.tuning_lifetimes, _FINALISTS), (settings.final_lifetimes, 1))):
    say(f'{len(ranked)} pairs, {num} lifetimes of each')
    live = make(num)
    whole = {}
    for pair in ranked:
      score = log.get(index, pairs[pair])
      if score is None:
        some = live(pair, jax.random.fold_in(key, index))
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
  """`config` with A2C's learning rates for the agents of a rule."""
  agent = config.agents[environment]
  # Without predictions to learn all costs are alike.
  kl_costs = agent.kl_costs
  if registry.make_learned(config.rule).predictions is None:
    kl_costs = kl_costs[:1]
  agent = dataclasses.replace(
      agent, learning_rates=baselines.learning_rates(agent), kl_costs=kl_costs)
  return dataclasses.replace(
      config, agents={**config.agents, environment: agent})


def tune_rule(config: config_lib.Config, environment: str, eta: np.ndarray,
              settings: settings_lib.Settings, say: Callable[[str], None],
              log: Optional[Log] = None) -> dict[str, Any]:
  """Finds the arm with which agents of a rule have the best final return.

  Returns:
    `arm`, and of all: `arms` (pairs) and their `final` returns.
  """
  arms = config.agents[environment].arms

  def make(num):
    lives = evaluation.Lives(config, environment, num)
    return lambda arm, key: lives(eta, key, only_arm(arm, len(arms)))

  arm, final = tune(arms, make, settings, say, log)
  return {'arm': arm, 'arms': arms, 'final': final}


def a2c_lives(config: config_lib.Config, environment: str, num: int
              ) -> Callable[[Sequence[float], chex.PRNGKey],
                            train_agents.Lifetimes]:
  """What lives `num` lifetimes of A2C with a pair of `baselines.grid`."""
  train = jax.jit(lambda pair, key: baselines.train_a2c(
      config, environment, key, jnp.tile(pair, (num, 1)))._replace(theta=()))
  return lambda pair, key: jax.tree_util.tree_map(
      np.asarray, train(jnp.asarray(pair, jnp.float32), key))


def tune_a2c(config: config_lib.Config, environment: str,
             settings: settings_lib.Settings, say: Callable[[str], None],
             log: Optional[Log] = None) -> dict[str, Any]:
  """Finds A2C's pair of `baselines.grid` with the best final return."""
  pairs = baselines.grid(config.agents[environment])

  def make(num):
    lives = a2c_lives(config, environment, num)
    return lambda index, key: lives(pairs[index], key)

  best, final = tune(pairs, make, settings, say, log)
  return {'learning_rate': pairs[best][0], 'entropy_cost': pairs[best][1],
          'final': final, 'pairs': pairs}


def choose_arm(source: sources.Source, config: config_lib.Config,
               environment: str, settings: settings_lib.Settings,
               say: Callable[[str], None], log: Optional[Log] = None
               ) -> dict[str, Any]:
  """How a rule comes to its hyperparameters.

  Args:
    source: the rule; one that is marked as untrained has the hyperparameters
      of that which it stands beside, or draws them uniformly, as it does where
      rules are tuned.
    config: what its agents live by, see `training_environments.sized`.
    environment: its name.
    settings: see there.
    say: see `tune`.
    log: see `tune`.

  Returns:
    `arm`, None where they are drawn; `arms` (pairs); of one that had to be
    tuned, see `tune_rule`, `final` too.
  """
  agent = config.agents[environment]
  arm = (None if settings.tune
         else source.preferred_arm(environment, agent))
  if arm is None and not source.about.get('untrained'):
    return tune_rule(config, environment, source.eta, settings, say, log)
  return {'arm': arm, 'arms': agent.arms}
