"""Compares rules with A2C on each of the fifteen training environments.

It reads several files of results of Figure 3. The first table has a row for
each environment and a column for each rule of each file. It compares final
returns and means over learning curves. A rule is above (+) or below (-) A2C if
their 95 % intervals do not overlap; else the sign is `=`.

A2C is tuned for each environment. The head of a column names the number of
trials of the search that tuned both rule and A2C. Files of an older search have
no such number; in them only some hyperparameters of A2C were tuned.

Some layouts give higher returns to all agents, and all agents get the same
layouts. So a second table has the differences lifetime by lifetime.
"""

import itertools
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_settings as training
from lpg_distributed.envs import suite
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style

_SIGNS = {1: '+', -1: '-', 0: '='}
_MARKERS = 'osD^v<>PX*hdp8H'


class RuleComparison(NamedTuple):
  """The comparison of a rule in one file."""
  head: str
  final: Mapping[str, int]  # result of `intervals.compare`, by kind
  whole: Mapping[str, int]
  # By kind, `intervals.summary` of the differences in final return between the
  # rule and A2C in the same lifetime.
  difference: Mapping[str, Mapping[str, Any]]
  baseline: Mapping[str, float]  # A2C's mean final return, by kind
  tuned: bool  # whether A2C was tuned in full


def _head(label: str, about: Mapping[str, Any]) -> str:
  """Formats the head of a column: rule, settings and trials of the search.

  Settings are those in which lifetimes differ from the training's. Files of an
  older search have no trials.
  """
  rule, settings = about['rules'][label], about['settings']
  name = rule.get('published')
  parts = [f'`{name}`' if name else label]
  if settings['updates']:
    parts.append(f'{settings["updates"]} updates')
  if settings['seed']:
    parts.append(f'seed {settings["seed"]}')
  if settings.get('trials'):
    parts.append(f'{settings["trials"]} trials')
  return ', '.join(parts)


def _rule(column: RuleComparison) -> str:
  """Returns the rule's name, the first part of the column's head."""
  return column.head.partition(',')[0].strip('`')


def _difference(label: str, data: Mapping[str, Any]
                ) -> dict[str, Mapping[str, Any]]:
  """Computes `RuleComparison.difference`, for kinds with results of both."""
  final = lambda rows, label: stored.as_array(rows[label]['final'])
  by_kind = {name: found['rules'] for name, found in data.items()}
  return {name: intervals.summary(
      final(rows, label) - final(rows, training.A2C))
          for name, rows in by_kind.items()
          if {label, training.A2C} <= rows.keys()}


def _baseline(data: Mapping[str, Any]) -> dict[str, float]:
  return {name: float(np.nanmean(stored.as_array(
      found['rules'][training.A2C]['final'])))
          for name, found in data.items() if training.A2C in found['rules']}


def _signs(columns: Sequence[Mapping[str, int]]) -> str:
  """Counts kinds on which some rule is above A2C, or every rule below."""
  by_kind = [[column[name] for column in columns if name in column]
             for name in suite.ENVIRONMENTS]
  shared = [found for found in by_kind if found]
  return (f'of {len(by_kind)} kinds: compared on {len(shared)}; at least one '
          f'rule is above A2C on {sum(1 in found for found in shared)}, all '
          'rules that were compared are below A2C on '
          f'{sum(set(found) == {-1} for found in shared)}.')


def compared(about: Mapping[str, Any],
             data: Mapping[str, Any]) -> list[RuleComparison]:
  """Returns the trained rules that were compared with A2C on some kind."""
  result = []
  for label in figure3.trained(about):
    final, whole = (figure3.compared(label, training.A2C, data, what)
                    for what in ('final', 'whole'))
    if final:
      result.append(RuleComparison(_head(label, about), final, whole,
                                   _difference(label, data), _baseline(data),
                                   bool(about['settings'].get('trials'))))
  return result


def lines(columns: Sequence[RuleComparison]) -> list[str]:
  """Formats the tables, and counts kinds with some rule above A2C."""
  nothing = {'low': 0., 'high': 0.}
  paired = [{name: intervals.compare(found, nothing)
             for name, found in column.difference.items()}
            for column in columns]
  rows, differences = [], []
  for name in suite.ENVIRONMENTS:
    cells = [f'{_SIGNS[column.final[name]]} / {_SIGNS[column.whole[name]]}'
             if name in column.final else '' for column in columns]
    rows.append([f'`{name}`', *cells])
    differences.append([f'`{name}`', *(
        f'{intervals.text(column.difference[name])} {_SIGNS[signs[name]]}'
        if name in signs else '' for column, signs in zip(columns, paired))])
  heads = ['environment', *(column.head for column in columns)]
  return [
      *markdown.table(heads, rows), '',
      f'Final returns, {_signs([column.final for column in columns])}', '',
      'Final returns minus those of A2C in the same lifetimes, mean ± half of '
      'the 95 % interval; above 0 (+), below (-), or 0 is inside (=):', '',
      *markdown.table(heads, differences), '',
      f'Lifetime by lifetime, {_signs(paired)}']


def read(paths: Sequence[str]) -> list[RuleComparison]:
  """Reads the rules of several files of results of Figure 3; see `compared`.

  Raises:
    ResultsError: a file does not exist, or no rule was compared with A2C.
  """
  columns = [column for path in paths
             for column in compared(*stored.load(path, figure3.NAME))]
  if not columns:
    raise stored.ResultsError(
        f'{", ".join(paths)}: no rule was compared with A2C')
  return columns


def draw(columns: Sequence[RuleComparison], path: str) -> str:
  """Draws a forest plot of the paired differences from A2C; returns `path`.

  It has a row for each kind and a mark for each rule: the mean over lifetimes
  of the final return minus A2C's in the same lifetime, and its 95 % interval.
  Both are divided by A2C's mean final return, so that kinds share an axis.
  Columns with the same head share a mark. Marks are hollow where A2C was tuned
  in part, by the older search.

  Raises:
    ResultsError: the file cannot be written.
  """
  kinds = [name for name in suite.ENVIRONMENTS
           if any(name in column.difference for column in columns)]
  figure = style.figure(7.2, 1.8 + 0.42 * len(kinds))
  looks = style.methods([_rule(column) for column in columns])
  marks = dict(zip(dict.fromkeys(column.head for column in columns),
                   itertools.cycle(_MARKERS)))
  axes = figure.subplots()
  offsets = np.linspace(-0.3, 0.3, len(columns)) if columns[1:] else [0.]
  for column, offset in zip(columns, offsets):
    rows = [(row, column.difference[name], column.baseline[name])
            for row, name in enumerate(kinds)
            if name in column.difference
            and column.difference[name]['low'] is not None]
    axes.errorbar(
        [found['mean'] / scale for _, found, scale in rows],
        [row + offset for row, _, _ in rows],
        xerr=[(found['high'] - found['mean']) / abs(scale)
              for _, found, scale in rows],
        fmt=marks[column.head], color=looks[_rule(column)]['color'],
        markerfacecolor=None if column.tuned else 'white',
        markersize=4, linewidth=1, capsize=1.5,
        label=column.head.replace('`', ''))
  axes.axvline(0., color='black', linewidth=0.8)
  axes.set_yticks(range(len(kinds)), kinds)
  axes.set_ylim(len(kinds) - 0.5, -0.5)
  axes.set_xlabel('final return minus A2C\'s in the same lifetimes,\n'
                  'as a fraction of A2C\'s mean (95 % intervals)')
  axes.grid(axis='y', linewidth=0.2)
  style.legend_below(figure, (axes,), 2)
  try:
    style.save(figure, path)
  except (OSError, ValueError) as error:  # Not writable, or unknown format.
    raise stored.ResultsError(f'{path} cannot be drawn: {error}') from None
  return path
