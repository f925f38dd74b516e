"""Writes a report on a run: a single HTML file that needs no network.

The page shows learning curves per environment, with the optimum and the
untrained rule. It also shows the bandit's probabilities over meta-steps, the
number of lifetimes that ended early, throughput, the evaluator, the
configuration and the versions. It can be written at any time, also during the
run.
"""

import html
import io
import json
import os
import re
from typing import Any, Mapping, Sequence

import matplotlib
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import files
from lpg_distributed.analysis import evaluator_curves
from lpg_distributed.envs import optimal_returns
from lpg_distributed.figures import style
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory

_COLUMNS = 3
_NUMBERS = ('env_steps', 'env_steps_per_s', 'elapsed_s', 'resets', 'resets/',
            'return/', 'entropy/', 'gradient_norm')  # of the learner
_MAX_POINTS = 300  # points per curve; of longer ones, means of equal parts
_LATEST = 0.1  # last part of the rows, over which a table's means are taken
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 0 auto;
  max-width: 70rem; padding: 1rem; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin-top: 2rem; }}
svg {{ width: 100%; height: auto; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .2rem .8rem .2rem 0;
  text-align: left; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
pre {{ background: #f5f5f5; padding: .8rem; overflow-x: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


class Rows:
  """The rows of one metrics file, with access by column."""

  def __init__(self, rows: Sequence[Mapping[str, Any]]):
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def last(self, name: str) -> Any:
    """Returns the newest value of a column; None if there is none."""
    return next((row[name] for row in reversed(self._rows)
                 if row.get(name) is not None), None)

  def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps [n] and values [n]; n is at most `_MAX_POINTS`."""
    pairs = np.array([(row['step'], row[name]) for row in self._rows
                      if isinstance(row.get(name), (int, float))],
                     float).reshape(-1, 2)
    parts = np.array_split(pairs, min(_MAX_POINTS, max(1, len(pairs))))
    means = np.array([part.mean(axis=0) for part in parts if len(part)])
    return tuple(means.reshape(-1, 2).T)

  def latest_mean(self, name: str) -> float | None:
    """Returns the mean of a column over the last tenth of the rows."""
    count = max(1, int(len(self._rows) * _LATEST))
    values = [row[name] for row in self._rows[-count:]
              if isinstance(row.get(name), (int, float))]
    return float(np.mean(values)) if values else None


def _svg(figure) -> str:
  """Returns the figure as an element of a page."""
  data = io.StringIO()
  with matplotlib.rc_context({'svg.hashsalt': 'lpg', 'svg.fonttype': 'none'}):
    figure.savefig(data, format='svg', metadata={'Date': None})
  text = data.getvalue()
  return text[text.index('<svg'):]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Formats a table; numbers are right-aligned, None is a dash."""
  def cell(value):
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      text = f'{value:,}' if isinstance(value, int) else f'{value:.3g}'
      return f'<td class="number">{text}</td>'
    return f'<td>{html.escape("-" if value is None else str(value))}</td>'
  lines = ['<div class="scroll"><table><thead><tr>',
           *(f'<th>{html.escape(name)}</th>' for name in head),
           '</tr></thead><tbody>']
  lines += [f'<tr>{"".join(map(cell, row))}</tr>' for row in rows]
  return '\n'.join([*lines, '</tbody></table></div>'])


def _progress(config: config_lib.Config, learner: Rows) -> str:
  steps = learner.last('env_steps')
  rate = learner.last('env_steps_per_s')
  resets = learner.last('resets')
  return _table(('', ''), [
      ('meta-steps done', f'{int(learner.last("step") or 0) + 1:,} of '
       f'{config.run.meta_steps:,}'),
      ('environment steps', None if steps is None else int(steps)),
      ('environment steps per second, last meta-step',
       None if rate is None else int(rate)),
      ('hours of meta-steps', (learner.last('elapsed_s') or 0.) / 3600.),
      ('lifetimes that were reset', None if resets is None else int(resets)),
  ])


def _summary(config: config_lib.Config, learner: Rows,
             evaluation: Mapping[str, Any]) -> str:
  optima = optimal_returns.optima()
  return _table(
      ('environment', 'return, last tenth', 'optimum', 'untrained rule',
       'trained rule, new lifetimes'),
      [(name, learner.latest_mean(f'return/{name}'), optima.get(name),
        evaluation.get(f'untrained/{name}'), evaluation.get(f'trained/{name}'))
       for name in config.environments])


def _returns(config: config_lib.Config, learner: Rows,
             evaluation: Mapping[str, Any]) -> str:
  figure, grid = style.panels(len(config.environments), _COLUMNS)
  optima = optimal_returns.optima()
  for axes, name in zip(grid, config.environments):
    axes.plot(*learner.curve(f'return/{name}'), **style.line(0),
              label='end of lifetimes')
    if optima.get(name) is not None:
      axes.axhline(optima[name], color='gray', linewidth=0.8,
                   label='optimum')
    if evaluation.get(f'untrained/{name}') is not None:
      axes.axhline(evaluation[f'untrained/{name}'], label='untrained rule',
                   **style.methods(['untrained'])['untrained'])
    axes.set_title(name)
    axes.set_xlabel('meta-step')
    axes.set_ylabel('return')
  grid[0].legend()
  return _svg(figure)


def _bandit(config: config_lib.Config,
            rows: Sequence[Mapping[str, Any]]) -> str:
  """Draws a heat map per environment: p(alpha|E), arms over meta-steps."""
  figure, grid = style.panels(len(config.environments), _COLUMNS)
  for axes, name in zip(grid, config.environments):
    known = [row for row in rows if name in row]
    if not known:
      continue
    image = axes.imshow(
        np.array([row[name] for row in known]).T, aspect='auto', vmin=0.,
        vmax=1., cmap=style.COLOUR_MAP, interpolation='nearest',
        extent=(known[0]['step'], max(known[-1]['step'],
                                      known[0]['step'] + 1),
                len(known[0][name]) - 0.5, -0.5))
    arms = config.agents[name].arms
    axes.set_yticks(range(len(arms)),
                    [f'{rate:g}, {cost:g}' for rate, cost in arms],
                    fontsize=5)
    axes.set_title(name)
    axes.set_xlabel('meta-step')
    axes.set_ylabel('alpha_lr, alpha_y')
    figure.colorbar(image, ax=axes, label='probability')
  return _svg(figure)


def _diagnostics(config: config_lib.Config, learner: Rows) -> str:
  figure, grid = style.panels(4, _COLUMNS)
  steps, norms = learner.curve('gradient_norm')
  grid[0].semilogy(steps, np.maximum(norms, 1e-30), **style.line(0))
  grid[0].set_title('norm of the meta-gradient')
  grid[1].plot(*learner.curve('env_steps_per_s'), **style.line(0))
  grid[1].set_title('environment steps per second')
  for i, name in enumerate(('collapsed', 'not_finite')):
    grid[2].plot(*learner.curve(f'resets/{name}'), label=name,
                 **style.distinct(i))
  grid[2].set_title('resets in a meta-step')
  grid[2].legend()
  for i, name in enumerate(config.environments):
    grid[3].plot(*learner.curve(f'entropy/{name}'), label=name, linewidth=1,
                 **style.line(i))
  grid[3].set_title('entropy of the policy (nats)')
  grid[3].legend(fontsize=4)
  for axes in grid:
    axes.set_xlabel('meta-step')
  return _svg(figure)


def _evaluator(run_dir: str) -> str:
  seen = [e for e in evaluator_curves.read(run_dir) if e.done]
  games = evaluator_curves.games(seen)
  if not games:
    return '<p>The evaluator has finished no game yet.</p>'
  figure, grid = style.panels(len(games), _COLUMNS)
  for axes, game in zip(grid, games):
    evaluator_curves.draw_final(axes, game, seen)
    axes.set_xlabel('meta-step of the rule')
    axes.legend()
  return _svg(figure)


def _versions(run_dir: str) -> str:
  try:
    found = files.read_json(os.path.join(run_dir, 'versions.json'))
    rows = [(name, str(value)) for name, value in found.items()]
  except (OSError, ValueError, AttributeError):
    return '<p>The run has no readable versions.json.</p>'
  return _table(('part', 'version'), rows)


def make(run_dir: str) -> str:
  """Returns the page's HTML.

  Raises:
    ConfigError: there is no run, or it has no metrics yet.
  """
  config = run_directory.read_config(run_dir)
  learner = Rows(list(loggers.read_metrics(run_dir, 'learner', _NUMBERS)))
  if not len(learner):
    raise config_lib.ConfigError(f'{run_dir} has no metrics yet')
  evaluations = list(loggers.read_metrics(run_dir, 'evaluation'))
  evaluation = evaluations[-1] if evaluations else {}
  probabilities = list(loggers.read_metrics(run_dir, 'bandit'))
  changes = config_io.difference(config_lib.Config(), config)
  title = f'LPG run {os.path.basename(os.path.abspath(run_dir))}'
  parts = [
      f'<h1>{html.escape(title)}</h1>', _progress(config, learner),
      '<h2>Returns</h2>', _summary(config, learner, evaluation),
      _returns(config, learner, evaluation),
      '<h2>Hyperparameters: probabilities by the bandit</h2>',
      _bandit(config, probabilities) if probabilities else
      '<p>The run has stored no probabilities.</p>',
      '<h2>Diagnostics</h2>', _diagnostics(config, learner),
      '<h2>Evaluator</h2>', _evaluator(run_dir),
      '<h2>Configuration</h2>',
      '<p>Fields that differ from the paper\'s:</p><pre>'
      + html.escape('\n'.join(changes) or 'none') + '</pre>',
      '<details><summary>All fields</summary><pre>' + html.escape(
          json.dumps(config_io.to_dict(config), indent=1))
      + '</pre></details>',
      '<h2>Versions</h2>', _versions(run_dir)]
  return _TEMPLATE.format(title=html.escape(title),
                          body=_unique_ids('\n'.join(parts)))


def _unique_ids(text: str) -> str:
  """Makes the figures' ids unique, as a page requires."""
  pieces = text.split('<svg')
  for i, piece in enumerate(pieces[1:], 1):
    piece = re.sub(r'\bid="', f'id="f{i}-', piece)
    piece = re.sub(r'url\(#', f'url(#f{i}-', piece)
    pieces[i] = re.sub(r'href="#', f'href="#f{i}-', piece)
  return '<svg'.join(pieces)


def write(run_dir: str, path: str | None = None) -> str:
  """Writes the page to `path`, or `report.html` in the run; returns its path.

  Raises:
    ConfigError: there is no run or no metrics, or the file cannot be written.
  """
  path = path or os.path.join(run_dir, 'report.html')
  page = make(run_dir)
  try:
    files.write_whole(path, page.encode())
  except OSError as error:
    raise config_lib.ConfigError(
        f'{path} cannot be written: {error.strerror}') from None
  return path
