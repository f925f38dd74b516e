"""Draws results on Atari, as in Figures 9 and 10."""

import os
from typing import Mapping, NamedTuple, Sequence

import numpy as np

from lpg_distributed.analysis import atari_summary
from lpg_distributed.envs import atari
from lpg_distributed.figures import intervals
from lpg_distributed.figures import style

_POINTS = 200
_MAX_COLUMNS = 6


class GameCurve(NamedTuple):
  """The learning curve of one game."""
  frames: np.ndarray  # [n]
  mean: np.ndarray  # [n], mean return over runs
  half: np.ndarray  # [n], half of the 95 % interval over runs; 0 with one run


def curve(runs: Sequence[atari_summary.Run]) -> GameCurve:
  """Interpolates the mean over runs, at frames that all runs cover."""
  begin = max(run.frames[0] for run in runs)
  end = max(begin, min(run.frames[-1] for run in runs))
  frames = np.linspace(begin, end, _POINTS)
  returns = np.array([np.interp(frames, run.frames, run.returns)
                      for run in runs])
  half = np.zeros(_POINTS)
  if len(runs) > 1:
    half = intervals.half_width(
        intervals.standard_error(returns, axis=0), len(runs))
  return GameCurve(frames, returns.mean(axis=0), half)


def draw_curves(groups: Mapping[str, Sequence[atari_summary.Run]],
                path: str) -> None:
  """Draws Figure 10: a panel per game, a line per group of runs."""
  games = sorted({run.game for runs in groups.values() for run in runs})
  columns = min(_MAX_COLUMNS, max(1, int(np.ceil(np.sqrt(len(games))))))
  figure, panels = style.panels(len(games), columns)
  looks = style.methods(list(groups))
  for game, axes in zip(games, panels):
    top = -np.inf
    for name, runs in groups.items():
      runs = atari_summary.by_game(runs).get(game)
      if not runs:
        continue
      frames, mean, half = curve(runs)
      frames = frames / 1e6
      # A curve with a single point has no line.
      marker = 'o' if frames[0] == frames[-1] else None
      style.plot_interval(axes, frames, mean, half, name, looks[name],
                          marker=marker, markevery=_POINTS)
      top = max(top, (mean + half).max())
    random, human = atari.scores()[game]
    axes.axhline(random, color='gray', linewidth=0.8, label='random')
    # A human score that is far above the curves would hide them.
    if random + (top - random) * 2 > human:
      axes.axhline(human, color='gray', linestyle='--', linewidth=1,
                   label='human')
    axes.set_title(game)
  for axes in panels:
    axes.set_xlabel('million frames')
    axes.set_ylabel('episode return')
  several = max(len(atari_summary.by_game(runs)[game])
                for runs in groups.values()
                for game in atari_summary.by_game(runs))
  style.note(figure, ('mean and 95 % interval over runs' if several > 1
                      else 'one run each, so no interval')
             + '; a dot: fewer than 100 episodes ended')
  style.legend_below(figure, panels)
  style.save(figure, path)


def draw_environments(groups: Mapping[str, Sequence[atari_summary.Run]],
                      path: str) -> None:
  """Draws Figure 9: games above the human score, by training environments.

  Args:
    groups: runs by the number of training environments of their rule.
    path: path of the figure.
  """
  points = sorted((int(name), atari_summary.summarise(runs).above_human)
                  for name, runs in groups.items())
  numbers = [number for number, _ in points]
  errors = [(0., 0.) if i.low is None else (max(i.value - i.low, 0.),
                                            max(i.high - i.value, 0.))
            for _, i in points]
  figure, (axes,) = style.panels(1, 1)
  axes.errorbar(numbers, [i.value for _, i in points],
                yerr=np.array(errors).T, marker='o', capsize=3,
                **style.line(0))
  axes.set_xticks(numbers)
  axes.set_ylim(0., max(1., axes.get_ylim()[1]))
  axes.set_xlabel('training environments')
  axes.set_ylabel('games above human')
  style.note(figure, 'bars: 95 % intervals' if any(map(any, errors))
             else 'no intervals')
  style.save(figure, path)


def draw_all(groups: Mapping[str, Sequence[atari_summary.Run]], directory: str,
             numbers: bool) -> list[str]:
  """Draws all figures into a directory; returns their paths.

  Args:
    groups: runs by label.
    directory: directory of the figures; created if it does not exist.
    numbers: whether labels are numbers of training environments. Then Figure
      9 is drawn, else the curves.

  Raises:
    AnalysisError: the directory cannot be written.
  """
  figures = {'atari_curves.svg': draw_curves}
  if numbers:
    figures = {'atari_environments.svg': draw_environments}
  paths = []
  try:
    os.makedirs(directory, exist_ok=True)
    for name, draw in figures.items():
      paths.append(os.path.join(directory, name))
      draw(groups, paths[-1])
  except OSError as error:
    raise atari_summary.AnalysisError(
        f'{directory} cannot be written: {error.strerror}') from None
  return paths
