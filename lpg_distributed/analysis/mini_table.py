"""Combines tables of `lpg mini` into one table and one figure of all rules.

Each table holds a rule, A2C and an untrained rule on eight small environments,
and perhaps PPO. All tables have the same steps, seeds and learning rates, so
rules from several tables can be compared. A2C, PPO and the untrained rule come
from the first table that has them.
"""

import os
from typing import Any, Mapping, Sequence

import numpy as np

from lpg_distributed import files
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import stored
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style

NAME = 'mini_table'
TABLE = 'table.json'
_SHARED = {'a2c': 'A2C', 'ppo': 'PPO', 'random': 'untrained'}
_FIELDS = ('mean', 'standard_error', 'learning_rate', 'at_edge')


def _read(directory: str) -> dict[str, Any]:
  path = os.path.join(directory, TABLE)
  try:
    return files.read_object(path)
  except (OSError, ValueError) as error:
    raise _damaged(directory, error) from None


def _damaged(directory: str, error: Exception) -> stored.ResultsError:
  return stored.ResultsError(
      f'{os.path.join(directory, TABLE)} is not a table of `lpg mini`: '
      f'{error!r}')


def _add(data: dict[str, Any], label: str,
         table: Mapping[str, Any]) -> set[int]:
  """Adds a table to `data`; returns the numbers of seeds in it."""
  num = set()
  for environment, rules in table.items():
    found = data.setdefault(environment, {'env_steps': None, 'rules': {}})
    for rule, cell in rules.items():
      name = label if rule == 'lpg' else _SHARED[rule]
      found['env_steps'] = cell['env_steps']
      found['rules'].setdefault(name, {key: cell[key] for key in _FIELDS})
      num.add(len(cell['returns']))
  return num


def compute(tables: Sequence[str]):
  """Reads tables; returns `about` and `data`.

  Args:
    tables: LABEL=DIRECTORY of runs of `lpg mini`; the label names the rule.

  Raises:
    ResultsError: a label is missing, or a directory has no table.
  """
  data: dict[str, Any] = {}
  num: set[int] = set()
  for text in tables:
    label, directory = experiment.split(text)
    if not label:
      raise stored.ResultsError(f'--table is {text}; allowed: LABEL=DIRECTORY')
    try:
      num |= _add(data, label, _read(directory))
    except (AttributeError, KeyError, TypeError) as error:
      raise _damaged(directory, error) from None
  if len(num) != 1:
    raise stored.ResultsError(f'the tables have {sorted(num)} seeds; allowed: '
                              'the same number')
  return {'seeds': num.pop()}, data


def _labels(data: Mapping[str, Any]) -> list[str]:
  """Returns all rules; A2C, PPO and the untrained one come last."""
  labels = dict.fromkeys(label for found in data.values()
                         for label in found['rules'])
  return sorted(labels, key=lambda label: label in _SHARED.values())


def draw(about, data):
  """Draws final returns with intervals: a panel for each environment."""
  figure, grid = style.panels(len(data), 4, scale=0.75)
  labels = _labels(data)
  looks = style.methods(labels)
  for axes, (environment, found) in zip(grid, data.items()):
    means = []
    for row, label in enumerate(labels):
      cell = found['rules'].get(label)
      if cell is None or cell['mean'] is None:
        continue
      half = intervals.half_width(cell['standard_error'], about['seeds'])
      axes.errorbar(cell['mean'], row, xerr=half, marker='o', markersize=4,
                    capsize=2, color=looks[label]['color'])
      means.append(cell['mean'])
    if means:  # Wide intervals would hide the differences of means.
      margin = 0.4 * (np.ptp(means) or abs(means[0]) or 1.)
      axes.set_xlim(min(means) - margin, max(means) + margin)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_title(environment.partition('/')[2])
    if axes.get_subplotspec().is_last_row():
      axes.set_xlabel('return at the end')
    axes.grid(axis='x', linewidth=0.2)
    if not axes.get_subplotspec().is_first_col():
      axes.set_yticklabels([])
  style.note(figure, f'mean and 95 % interval over {about["seeds"]} seeds; '
             'wide intervals end at the frame')
  return figure


def lines(about, data):
  """Formats the table as lines of text."""
  labels = _labels(data)
  rows = []
  for environment, found in data.items():
    cells = []
    for label in labels:
      cell = found['rules'].get(label)
      if cell is None or cell['mean'] is None:
        cells.append('-')
        continue
      half = intervals.half_width(cell['standard_error'], about['seeds'])
      edge = '*' if cell['at_edge'] else ''
      cells.append(f'{cell["mean"]:.3g} ± {intervals.half_text(half)} '
                   f'({cell["learning_rate"]:g}{edge})')
    rows.append([f'`{environment.partition("/")[2]}`',
                 f'{found["env_steps"]:,}', *cells])
  return [f'Return at the end, ± half of the 95 % interval over '
          f'{about["seeds"]} seeds (learning rate; * the largest or smallest '
          'that was tried):', '',
          *markdown.table(['environment', 'steps', *labels], rows)]
