"""Summarises results on Atari: scores by game, aggregates and tables."""

import os
from typing import Mapping, NamedTuple, Optional, Sequence

import numpy as np

from lpg_distributed import errors
from lpg_distributed.analysis import experiment
from lpg_distributed.envs import atari
from lpg_distributed.envs import registry
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import summary

# Number of episodes over which a point of a curve is a mean.
_WINDOW = 100
_BOOTSTRAPS = 2000
_CONFIDENCE = 0.95


class AnalysisError(errors.UserError, ValueError):
  """Results cannot be combined; the message is one line."""


class Run(NamedTuple):
  """The training of one agent on one game."""
  game: str
  seed: int
  frames: np.ndarray  # [n], of the rows that `settled` keeps
  returns: np.ndarray  # [n], see `latest_returns`
  score: float  # return at the end so far, see `summary.final_return`
  done: bool


class Interval(NamedTuple):
  """An estimate with its 95 % confidence interval."""
  value: float
  low: Optional[float] = None  # None: too few runs
  high: Optional[float] = None

  def __str__(self) -> str:
    if self.low is None:
      return f'{self.value:.3g} (one run: no interval)'
    return f'{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]'


class Summary(NamedTuple):
  """Aggregates of human-normalised scores over games."""
  num_games: int
  num_runs: int  # runs per game that are used
  above_human: Interval  # number of games whose mean score is above 1
  median: Interval  # of the games' mean scores
  iqm: Interval  # interquartile mean of all runs


def read(directory: str) -> dict[str, list[Run]]:
  """Reads all trainings below a directory, by rule and preset.

  Raises:
    ResultError: a result is damaged.
    AnalysisError: there are no results, no episode has ended in any, or two
      have the same game, rule, preset and seed.
  """
  groups: dict[str, list[Run]] = {}
  for path in _find(directory):
    result = results.read(path)
    job = result.job
    kind, game = registry.split(job.environment)
    if kind != 'atari':
      continue
    runs = groups.setdefault(f'{job.rule}, {job.preset}', [])
    for seed, rows in summary.by_seed(result).items():
      score = summary.final_return(rows)
      if score is None:
        continue
      if any((run.game, run.seed) == (game, seed) for run in runs):
        raise AnalysisError(
            f'{directory} has two trainings of {game} with {job.rule} and seed '
            f'{seed}; give each its own --results')
      ended = [row for row in rows if row['return'] is not None]
      done = (bool(rows[-1].get('diverged'))
              or rows[-1]['env_steps'] >= job.env_steps)
      counts = [row['episodes'] for row in ended]
      kept = settled(counts)
      runs.append(Run(
          game, seed, np.array([row['frames'] for row in ended[kept:]], float),
          latest_returns([row['return'] for row in ended], counts)[kept:],
          score, done))
  groups = {name: runs for name, runs in groups.items() if runs}
  if not groups:
    raise AnalysisError(f'no Atari training below {directory} has finished an '
                        'episode yet')
  return groups


def latest_returns(means: Sequence[float],
                   counts: Sequence[int]) -> np.ndarray:
  """Computes, for each row, the mean return of the latest episodes.

  It is the mean over as many of the latest rows as hold `_WINDOW` episodes, or
  over all rows so far if they hold fewer.

  Args:
    means: [n], mean return of each row's episodes.
    counts: [n], number of each row's episodes.
  """
  result = []
  for end in range(1, len(means) + 1):
    begin = end - 1
    while begin and sum(counts[begin:end]) < _WINDOW:
      begin -= 1
    result.append(np.average(means[begin:end], weights=counts[begin:end]))
  return np.array(result)


def settled(counts: Sequence[int]) -> int:
  """Returns the index of the first row by which `_WINDOW` episodes have ended.

  If fewer episodes ended in all rows, returns the index of the last row. The
  episodes that end first are the shortest. So means over the first few are too
  low, and would rise as if the agent learned.

  Args:
    counts: [n], number of each row's episodes.
  """
  enough = np.cumsum(counts) >= _WINDOW
  return int(np.argmax(enough)) if enough.any() else len(counts) - 1


def _find(directory: str) -> list[str]:
  """Returns all result files below `directory`."""
  found = sorted(os.path.join(parent, results.FILE)
                 for parent, _, names in os.walk(directory)
                 if results.FILE in names)
  if not found:
    raise AnalysisError(f'there are no results below {directory}')
  return found


def by_game(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Groups runs by game; games in alphabetical order, runs ordered by seed."""
  games: dict[str, list[Run]] = {}
  for run in sorted(runs, key=lambda run: (run.game, run.seed)):
    games.setdefault(run.game, []).append(run)
  return games


def normalised(runs: Sequence[Run]) -> np.ndarray:
  """Computes human-normalised scores, [runs, games].

  Each game contributes the same number of runs, those with the first seeds.
  """
  games = by_game(runs)
  num_runs = min(map(len, games.values()))
  return np.array([[atari.human_normalised(game, run.score)
                    for run in of_game[:num_runs]]
                   for game, of_game in games.items()]).T


def count_above_human(scores: np.ndarray) -> float:
  """Counts games whose mean score is above 1; `scores` is [runs, games]."""
  return float(np.sum(np.mean(scores, axis=0) > 1.))


def summarise(runs: Sequence[Run], seed: int = 0) -> Summary:
  """Aggregates over games; intervals by a bootstrap stratified by game."""
  # Imported here, since its import is slow.
  from rliable import library
  from rliable import metrics
  scores = normalised(runs)
  functions = (count_above_human, metrics.aggregate_median,
               metrics.aggregate_iqm)
  values = [float(f(scores)) for f in functions]
  intervals = [(None, None)] * len(values)
  if len(scores) > 1:
    _, bounds = library.get_interval_estimates(
        {'': scores}, lambda x: np.array([f(x) for f in functions]),
        reps=_BOOTSTRAPS, confidence_interval_size=_CONFIDENCE,
        random_state=np.random.RandomState(seed))
    intervals = [(float(low), float(high)) for low, high in bounds[''].T]
  return Summary(scores.shape[1], len(scores),
                 *(Interval(value, *interval)
                   for value, interval in zip(values, intervals)))


def table(groups: Mapping[str, Sequence[Run]]) -> list[str]:
  """Formats a table: a row for each game, a column for each group of runs.

  Scores are means over runs, with half of their 95 % interval. `*` marks
  unfinished runs.
  """
  games = sorted({run.game for runs in groups.values() for run in runs})
  names = list(groups)
  rows = []
  for game in games:
    random, human = atari.scores()[game]
    cells = [game, f'{random:.6g}', f'{human:.6g}']
    for name in names:
      runs = by_game(groups[name]).get(game, [])
      cells.append(_cell(game, runs) if runs else '-')
    rows.append(cells)
  return markdown.table(['game', 'random', 'human', *names], rows)


def _cell(game: str, runs: Sequence[Run]) -> str:
  scores = [run.score for run in runs]
  score = summary.score(scores)
  star = '' if all(run.done for run in runs) else ' *'
  half = score.half_width
  return (f'{score.mean:.4g}' + (
      '' if half is None else f' ± {intervals.half_text(half)}')
          + f' ({atari.human_normalised(game, score.mean):.0%}){star}')


def lines_of(groups: Mapping[str, Sequence[Run]]) -> list[str]:
  """Formats the table and the aggregates."""
  lines = table(groups)
  lines += ['', 'Mean return over the last tenth of the steps ± half of the '
            '95 % interval over seeds (human-normalised); * not finished.', '']
  for name, runs in groups.items():
    found = summarise(runs)
    frames = sorted({run.frames[-1] for run in runs})
    lines.append(
        f'{name}: {found.num_games} games, {found.num_runs} runs of each, '
        f'{frames[0]:,.0f}'
        + (f' to {frames[-1]:,.0f}' if len(frames) > 1 else '') + ' frames; '
        f'above human {found.above_human}, median {found.median}, IQM '
        f'{found.iqm}')
  lines += ['', 'Intervals: 95 %, bootstrap over runs, stratified by game.']
  return lines


def collect(arguments: Sequence[str]) -> tuple[dict[str, list[Run]], bool]:
  """Returns groups of runs by label, and whether all labels are numbers."""
  groups: dict[str, list[Run]] = {}
  labels = []
  for text in arguments:
    label, directory = experiment.split(text)
    labels.append(label)
    found = read(directory)
    for name, runs in found.items():
      if label:
        name = label if len(found) == 1 else f'{label} ({name})'
      if name in groups:
        raise AnalysisError(f'{name} occurs twice; give each --results a '
                            'label of its own, as --results=LABEL=DIRECTORY')
      groups[name] = runs
  numbers = all(label.isdecimal() for label in labels)
  if numbers and any(name not in labels for name in groups):
    raise AnalysisError('directories that are labelled with a number of '
                        'training environments must hold one rule and one '
                        'preset each')
  return groups, numbers
