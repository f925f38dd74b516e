"""Draws the learning curves of a run, or of a published rule's training."""

import os

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import evaluator_curves
from lpg_distributed.analysis import follow
from lpg_distributed.envs import optimal_returns
from lpg_distributed.figures import intervals
from lpg_distributed.figures import style
from lpg_distributed.store import loggers
from lpg_distributed.store import published
from lpg_distributed.store import run_directory

_COLUMNS = 3


def _column(rows, name):
  """Returns steps and values of the rows that have the column `name`."""
  pairs = [(row['step'], row[name]) for row in rows
           if row.get(name) is not None]
  return np.array(pairs, float).reshape(-1, 2).T


def _smooth(values, size):
  """Moving average over the last `size` values; fewer at the beginning."""
  sums = np.cumsum(np.insert(values, 0, 0.))
  end = np.arange(1, len(values) + 1)
  begin = np.maximum(0, end - size)
  return (sums[end] - sums[begin]) / (end - begin)


def _draw_ablations(axes, name, rows):
  """Draws the results of `analysis.follow`, with 95 % intervals."""
  if not rows:
    return
  num = min(row['num_lifetimes'] for row in rows)
  for i, label in enumerate(follow.VARIANTS):
    steps, values = _column(rows, f'{label}/{name}')
    if not len(steps):
      continue
    _, errors = _column(rows, f'{label}/{name}/standard_error')
    axes.errorbar(steps, values, intervals.half_width(errors, num),
                  linewidth=1, label=f'new: {label} (95 %)', capsize=1.5,
                  **style.distinct(i + 2))


def _draw_returns(axes, name, rows, evaluation):
  steps, values = _column(rows, f'return/{name}')
  axes.plot(steps, values, '.', color=style.COLOURS[0], alpha=0.25,
            markersize=3)
  size = max(1, len(values) // 20)
  axes.plot(steps, _smooth(values, size), color=style.COLOURS[0],
            label='end of lifetime')
  optimum = optimal_returns.optima().get(name)
  if optimum is not None:
    axes.set_title(f'{name}\n(optimal: {optimum:.3g})')
    if len(values) and optimum < 2. * values.max():  # Else it hides the curve.
      axes.axhline(optimum, color='gray', linewidth=0.8, label='optimal')
  else:
    axes.set_title(name)
  untrained = evaluation.get(f'untrained/{name}')
  if untrained is not None:
    axes.axhline(untrained, label='untrained rule',
                 **style.methods(['untrained'])['untrained'])
  axes.set_ylabel('return')


def draw(run_dir: str, path: str | None = None) -> str:
  """Draws `figures/training.png`, or `path`; returns its path.

  Raises:
    ConfigError: there is no run, it has no metrics yet, or `path` cannot be
      written.
  """
  config = run_directory.read_config(run_dir)
  rows = list(loggers.read_metrics(
      run_dir, 'learner', ('return/', 'gradient_norm', 'y_entropy/')))
  if not rows:
    raise config_lib.ConfigError(f'{run_dir} has no metrics yet')
  evaluations = list(loggers.read_metrics(run_dir, 'evaluation'))
  evaluation = evaluations[-1] if evaluations else {}
  seen = [e for e in evaluator_curves.read(run_dir) if e.done]
  games = evaluator_curves.games(seen)
  panels = len(config.environments) + 2 + len(games)
  figure, grid = style.panels(panels, _COLUMNS)
  ablations = follow.read(run_dir)
  for axes, name in zip(grid, config.environments):
    _draw_returns(axes, name, rows, evaluation)
    _draw_ablations(axes, name, ablations)
  style.legend_below(figure, grid[:len(config.environments)])
  axes = grid[len(config.environments)]
  axes.semilogy(*_column(rows, 'gradient_norm'), color=style.COLOURS[0])
  axes.set_title('norm of the meta-gradient')
  axes = grid[len(config.environments) + 1]
  for i, name in enumerate(config.environments):
    axes.plot(*_column(rows, f'y_entropy/{name}'), linewidth=1, label=name,
              **style.line(i))
  axes.axhline(np.log(config.rule.num_predictions), color='black',
               linestyle=':')
  axes.set_title('entropy of y (dotted: uniform)')
  axes.legend(fontsize=5 if len(config.environments) > 4 else None)
  for axes, game in zip(grid[len(config.environments) + 2:], games):
    evaluator_curves.draw_final(axes, game, seen)
    axes.legend()
  for axes in grid:
    axes.set_xlabel('meta-step')
  path = path or os.path.join(run_dir, 'figures', 'training.png')
  _save(figure, path)
  return path


def draw_published(name: str, path: str) -> str:
  """Draws the curves of a published rule's training; returns `path`.

  A point is the mean final return of the lifetimes that ended in a part of the
  training; the card holds no intervals.

  Raises:
    PublishedError: there is no such rule.
    ConfigError: `path` cannot be written.
  """
  curves = published.load_card(name)['curves']
  figure, grid = style.panels(len(curves['return']), _COLUMNS)
  for axes, (environment, values) in zip(grid, curves['return'].items()):
    axes.plot(curves['meta_step'], np.array(values, float),
              color=style.methods([name])[name]['color'])
    optimum = optimal_returns.optima().get(environment)
    axes.set_title(environment if optimum is None else
                   f'{environment}\n(optimal: {optimum:.3g})')
    if optimum is not None:
      axes.axhline(optimum, color='gray', linewidth=0.8)
    axes.set_xlabel('meta-step')
    axes.set_ylabel('return')
  style.note(figure, f'{name}: mean final return of lifetimes in its training; '
             'grey: optimum')
  _save(figure, path)
  return path


def _save(figure, path: str) -> None:
  try:
    style.save(figure, path)
  except (OSError, ValueError) as error:  # Not writable, or unknown format.
    raise config_lib.ConfigError(
        f'{path} cannot be drawn: {error}') from None
