"""Draws learning curves: a panel per environment, a line per rule."""

import os
from typing import Mapping, Sequence

from matplotlib import ticker
import numpy as np

from lpg_distributed.core.update_rules import registry
from lpg_distributed.figures import intervals
from lpg_distributed.figures import style
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import summary

_COLUMNS = 3
_POINTS = 50


def curve(result: results.Result) -> tuple[np.ndarray, np.ndarray]:
  """Interpolates a result on a grid: steps [n] and returns [n, agents].

  Returns are interpolated linearly between rows with ended episodes. The grid
  begins where every agent has ended an episode, and ends with the last row of
  the shortest agent.
  """
  agents = []
  for rows in summary.by_seed(result).values():
    points = [(row['env_steps'], row['return']) for row in rows
              if row['return'] is not None]
    if points:
      agents.append(np.array(points, float).T)
  if not agents:
    return np.zeros(0), np.zeros((0, 0))
  low = max(steps[0] for steps, _ in agents)
  high = min(steps[-1] for steps, _ in agents)
  grid = np.linspace(low, max(low, high), _POINTS)
  return grid, np.stack([np.interp(grid, *agent) for agent in agents], axis=1)


def draw(found: Sequence[results.Result], path: str) -> str:
  """Draws all results; returns `path`.

  Raises:
    ResultError: there is nothing to draw, or `path` cannot be written.
  """
  panels: dict[str, list[results.Result]] = {}
  for result in found:
    job = result.job
    name = job.environment + (f' ({job.preset})' if job.preset else '')
    panels.setdefault(name, []).append(result)
  if not panels:
    raise results.ResultError('there are no results to draw')
  columns = min(_COLUMNS, len(panels))
  figure, grid = style.panels(len(panels), columns)
  for axes, (name, group) in zip(grid, panels.items()):
    _draw_panel(axes, group)
    axes.set_title(name)
    axes.set_xlabel('environment steps')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  grid[0].set_ylabel('return')
  style.note(figure, 'mean and 95 % interval over seeds')
  style.legend_below(figure, grid)
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    style.save(figure, path)
  except (OSError, ValueError) as error:  # Not writable, or unknown format.
    raise results.ResultError(f'{path} cannot be drawn: {error}') from None
  return path


def _draw_panel(axes, group: Sequence[results.Result]) -> None:
  names = _labels(group)
  looks = style.methods(registry.names())
  for i, result in enumerate(group):
    rule = result.job.rule
    same = [r for r in group[:i] if r.job.rule == rule]
    look = dict(looks[rule])
    if same:
      look['linestyle'] = style.LINES[len(same) % len(style.LINES)]
    steps, returns = curve(result)
    if not len(steps):
      continue
    mean = returns.mean(axis=1)
    axes.plot(steps, mean, label=names[i], **look)
    if returns.shape[1] > 1:
      error = intervals.standard_error(returns)
      half = intervals.half_width(error, returns.shape[1])
      axes.fill_between(steps, mean - half, mean + half, alpha=0.2,
                        color=look['color'], linewidth=0)


def _labels(group: Sequence[results.Result]) -> list[str]:
  """Returns a label per result: its rule, and settings that tell rules apart.

  Settings are added only if several results have the same rule.
  """
  names = []
  for result in group:
    rule = result.job.rule
    same = [r for r in group if r.job.rule == rule]
    extra = _difference(result, same) if len(same) > 1 else ''
    names.append(f'{rule} {extra}'.strip())
  return names


def _difference(result: results.Result,
                group: Sequence[results.Result]) -> str:
  """Formats the settings of `result` in which the group's results differ."""
  fields: Mapping[str, object] = {
      **vars(result.job.settings),
      'eta': os.path.basename(result.job.eta or '')}
  parts = []
  for name, value in fields.items():
    others = {str({**vars(r.job.settings),
                   'eta': os.path.basename(r.job.eta or '')}[name])
              for r in group}
    if len(others) > 1 and value != '':
      parts.append(f'{name}={value}')
  return ' '.join(parts)
