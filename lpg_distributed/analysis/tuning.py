"""Chooses agents' hyperparameters by random search, for A2C and for rules.

A2C and each rule have the same number of trials, in these rounds:

- The first half is drawn from the whole ranges; its first trial is the default.
- Two rounds draw around the best trial so far. If that trial is at an end of a
  range, the range is widened first.
- The final round runs the best few trials again on other lifetimes, since the
  best of many noisy means is often the best by chance.

No figure uses the lifetimes of a search.
"""

from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import chex
import jax
import numpy as np

from lpg_distributed.analysis import curves
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import search_space
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_settings as settings_lib
from lpg_distributed.core import train_agents
from lpg_distributed.envs import suite

# See `evaluation.held_out_key`: lifetimes of the search differ from those of
# the comparison.
STREAM = 1
_FINAL = 3  # index of the final round; rounds 0, 1 and 2 come before
# Rounds 1 and 2 draw within this fraction of a range to both sides of the best.
_AROUND = 0.25

_Trial = tuple[float, ...]  # values of hyperparameters, in the order of names
# Maps hyperparameters, a key and a number of lifetimes to the results.
Simulate = Callable[[search_space.Values, chex.PRNGKey, int],
                    train_agents.Lifetimes]


class TrialScore(NamedTuple):
  """Mean returns of a trial; trials are ordered by them."""
  final: float
  whole: float  # mean over the curve; decides between equal final returns

  @property
  def rank(self) -> tuple[float, float]:
    """Sorting key: the final return rounded to two digits, then `whole`."""
    return round(self.final, 2), self.whole


class Log:
  """The results of a search so far, from which it can resume."""

  def __init__(self, rows: Sequence[Sequence[Any]] = (),
               keep: Callable[[list[list[Any]]], None] = lambda rows: None):
    """Starts with `rows`, and passes all rows to `keep` after each new one.

    Args:
      rows: [round, *values, final return, mean over the curve]. None stands for
        minus infinity, which JSON lacks.
      keep: called with all rows.
    """
    number = lambda x: -np.inf if x is None else x
    self._found = {tuple(at): TrialScore(number(final), number(whole))
                   for *at, final, whole in rows}
    self._keep = keep

  def get(self, index: int, values: Sequence[float]) -> Optional[TrialScore]:
    """Returns the score of values in a round; None if not yet known."""
    return self._found.get((index, *values))

  def add(self, index: int, values: Sequence[float], score: TrialScore) -> None:
    """Adds the score of values in a round, and calls `keep`."""
    self._found[(index, *values)] = score
    self._keep(self.rows())

  def rows(self) -> list[list[Any]]:
    """Returns all rows, in the order in which they were added."""
    return [[*at, *score] for at, score in self._found.items()]


def round_sizes(trials: int) -> tuple[int, int, int]:
  """Returns the numbers of trials in the three rounds before the final one."""
  quarter = trials // 4
  return trials - 2 * quarter, quarter, quarter


def _score(some: train_agents.Lifetimes, num: int, points: int) -> TrialScore:
  found = curves.row([some], curves.bins(len(some.episode_return), points), num)
  means = [float(np.nan_to_num(np.mean(found[what]), nan=-np.inf))
           for what in ('final', 'whole')]
  # Rounded as results store them. So a search that is resumed from stored
  # scores continues as one that was never interrupted.
  return TrialScore(*(-np.inf if x is None else x for x in stored.plain(means)))


def _ranked(found: Mapping[_Trial, TrialScore]) -> list[_Trial]:
  """Returns trials by rank, the best one first."""
  return sorted(found, key=lambda trial: found[trial].rank, reverse=True)


class _Rounds:
  """Runs rounds of trials of one environment; skips trials in the log."""

  def __init__(self, number: int, names: Sequence[str], simulate: Simulate,
               settings: settings_lib.ComparisonSettings,
               report: Callable[[str], None], log: Log):
    """Stores the arguments of `tune`; `number` is the environment's seed."""
    self._key = jax.random.fold_in(
        evaluation.held_out_key(settings.seed, STREAM), number)
    self._names, self._simulate, self._settings = names, simulate, settings
    self._report, self._log = report, log

  def run(self, index: int, trials: Sequence[_Trial], num: int
          ) -> dict[_Trial, TrialScore]:
    """Returns the scores of trials, over `num` lifetimes of each."""
    final = index == _FINAL
    self._report(f'{len(trials)} {"best" if final else "trials"}, {num} '
                 'lifetimes of each')
    key = jax.random.fold_in(self._key, int(final))
    found = {}
    for trial in trials:
      score = self._log.get(index, trial)
      if score is None:
        lifetimes = self._simulate(dict(zip(self._names, trial)), key, num)
        score = _score(lifetimes, num, self._settings.points)
        self._log.add(index, trial, score)
      found[trial] = score
    return found


def _bounds(ranges: search_space.Space) -> dict[str, list[float]]:
  return {name: [r.low, r.high] for name, r in ranges.items()}


def tune(environment: str, space: search_space.Space,
         first: search_space.Values, simulate: Simulate,
         settings: settings_lib.ComparisonSettings,
         report: Callable[[str], None], log: Optional[Log] = None
         ) -> dict[str, Any]:
  """Finds the hyperparameters with the best final return.

  Args:
    environment: name of the environment kind. Draws depend only on it and on
      the seed, so rules with the same ranges have the same trials.
    space: the ranges.
    first: the first trial, with the names of `space`.
    simulate: runs a trial.
    settings: numbers of trials and lifetimes. A single trial is not run.
    report: called with a message about each round.
    log: results that are not computed again; new ones are added.

  Returns:
    `best`: the hyperparameters. `names`: the order of values in rows. `trials`:
    the rows of `Log`. `ranges`: [low, high] by name, at the start. `widened`:
    [low, high] at the end, of the ranges that were widened. `at_edge`: by name,
    -1 or 1 where `best` is at the lower or upper end of its last range.
  """
  names = list(space)
  if settings.trials == 1:
    return {'best': dict(first), 'names': names, 'trials': [],
            'ranges': _bounds(space), 'widened': {}, 'at_edge': {}}
  number = suite.seed_number(environment)
  log, ranges = log or Log(), dict(space)
  rounds = _Rounds(number, names, simulate, settings, report, log)
  found: dict[_Trial, TrialScore] = {}
  for index, size in enumerate(round_sizes(settings.trials)):
    if not size:
      continue
    rng = np.random.default_rng([settings.seed, number, index])
    windows = ranges
    if index:
      best = dict(zip(names, _ranked(found)[0]))
      ranges = {name: r.widened(best[name]) for name, r in ranges.items()}
      windows = {name: r.around(best[name], _AROUND)
                 for name, r in ranges.items()}
    trials = [tuple(r.draw(rng) for r in windows.values())
              for _ in range(size)]
    if not index:
      trials[0] = tuple(stored.plain(first[name]) for name in names)
    found.update(rounds.run(index, trials, settings.tuning_lifetimes))
  last = rounds.run(_FINAL, _ranked(found)[:settings.finalists],
                    settings.final_lifetimes)
  best = dict(zip(names, _ranked(last)[0]))
  edges = {name: ranges[name].edge(best[name]) for name in names}
  return {'best': best, 'names': names, 'trials': log.rows(),
          'ranges': _bounds(space),
          'widened': _bounds({name: r for name, r in ranges.items()
                              if r != space[name]}),
          'at_edge': {name: edge for name, edge in edges.items() if edge}}
