"""Splits the results of Figure 3 by the number of actions in a layout.

Half of the grids have nine actions, and an agent collects the objects that it
steps on. The others have eighteen, and collecting is a separate action
(Appendix A.1). Returns differ so much between the two that the interval of
their mixture mostly reflects this difference. Layouts are drawn again from the
comparison's seed; no agent is trained.
"""

import dataclasses
from typing import Any, Mapping, Sequence

import numpy as np

from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_settings as training
from lpg_distributed.envs import grid_world
from lpg_distributed.envs import suite
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown

NUM_ACTIONS = (grid_world.NUM_MOVES, grid_world.NUM_ACTIONS)

_Summaries = Mapping[str, Mapping[str, Any]]


def num_actions(environment: str,
                settings: training.ComparisonSettings) -> np.ndarray:
  """Returns the number of actions, 9 or 18, of each lifetime on a grid.

  Returns:
    [lifetimes], in the order of Figure 3's returns.
  """
  from lpg_distributed.analysis import training_environments
  layouts = training_environments.layouts(environment, settings)
  return np.where(layouts.collects_by_action, *reversed(NUM_ACTIONS))


def by_num_actions(about: Mapping[str, Any], data: Mapping[str, Any],
                   labels: Sequence[str] = ()
                   ) -> dict[str, dict[int, _Summaries]]:
  """Summaries of final returns by environment, number of actions and label.

  Args:
    about: `about` of results of `figure3`.
    data: `data` of the same results; environments other than grids are skipped.
    labels: labels to include; empty: all.

  Raises:
    ResultsError: a label does not exist, or there is no grid.
  """
  known = dict.fromkeys(
      label for found in data.values() for label in found['rules'])
  for label in labels:
    if label not in known:
      raise stored.ResultsError(f'--label is {label!r}; allowed: '
                                f'{", ".join(map(repr, known))}')
  known_settings = {field.name for field in dataclasses.fields(
      training.ComparisonSettings)}
  settings = training.ComparisonSettings(**{
      name: value for name, value in about['settings'].items()
      if name in known_settings})  # Older files have more settings.
  result = {}
  for name, found in data.items():
    if not isinstance(suite.load(name), grid_world.GridWorld):
      continue
    sets = num_actions(name, settings)
    finals = {label: stored.as_array(row['final'])
              for label, row in found['rules'].items()
              if not labels or label in labels}
    result[name] = {n: {label: intervals.summary(final[sets == n])
                        for label, final in finals.items()}
                    for n in NUM_ACTIONS if np.any(sets == n)}
  if not result:
    raise stored.ResultsError('there are no results of grid worlds; only they '
                              'have two sets of actions')
  return result


def lines(found: Mapping[str, Mapping[int, _Summaries]]) -> list[str]:
  """Formats a table, and the differences whose intervals do not overlap."""
  labels = list(dict.fromkeys(label for sets in found.values()
                              for row in sets.values() for label in row))
  rows, verdicts = [], []
  for name, sets in found.items():
    for n, row in sets.items():
      num = next(iter(row.values()))['num'] if row else 0
      rows.append([f'`{name}`', f'{n}', f'{num}',
                   *(intervals.text(row.get(label)) for label in labels)])
  for label in labels:
    for n in NUM_ACTIONS:
      compared = [intervals.compare(sets[n][label], sets[n][training.A2C])
                  for sets in found.values()
                  if label != training.A2C and n in sets
                  and {label, training.A2C} <= sets[n].keys()]
      if compared:
        verdicts.append(
            f'{label} against A2C, {n} actions, {intervals.tally(compared)}')
  return [*markdown.table(['environment', 'actions', 'lifetimes', *labels],
                          rows), '', *verdicts]
