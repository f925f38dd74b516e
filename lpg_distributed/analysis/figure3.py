"""Figure 3: rules and A2C on held-out lifetimes of training environments.

New agents learn by each of the following. Learning curves and final returns
are recorded.

- each rule, with the best hyperparameters of a search on other lifetimes
- A2C, tuned by the same search with as many trials
- an untrained rule, with the hyperparameters of the first rule
- ablations of each rule: agents that never learn predictions (alpha_y = 0), phi
  held at its mean, pi(a|s) held at its mean, and the age t / T, if the rule
  sees it. A rule that does not need predictions may represent values by
  pi(a|s).

Results are written after each rule on each environment, and after each trial
of a search. The same command computes what is missing.
"""

import dataclasses
import os
import time
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_settings as training
from lpg_distributed.envs import optimal_returns
from lpg_distributed.envs import suite
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style

NAME = 'figure3'


def _check_settings(settings: training.ComparisonSettings) -> None:
  """Raises ResultsError if a number is not allowed."""
  experiment.check_counts(2, num_lifetimes=settings.num_lifetimes,
                          tuning_lifetimes=settings.tuning_lifetimes,
                          final_lifetimes=settings.final_lifetimes)
  experiment.check_counts(chunk=settings.chunk, trials=settings.trials,
                          finalists=settings.finalists)
  experiment.check_counts(0, updates=settings.updates, seed=settings.seed,
                          num_envs=settings.num_envs)


def _environments(names: Sequence[str],
                  base: config_lib.Config) -> tuple[str, ...]:
  names = tuple(filter(None, names))
  if names == ('all',):
    return suite.ENVIRONMENTS
  for name in names:
    try:
      suite.check_name(name)
    except ValueError as error:
      raise stored.ResultsError(f'--environments: {error}') from None
  return names or base.environments


def _done(path: str, about: Mapping[str, Any]) -> dict[str, Any]:
  """Loads the data of environments that an earlier command has finished.

  Raises:
    ResultsError: the file holds another comparison.
  """
  if not os.path.exists(path):
    return {}
  found, data = stored.load(path, NAME)
  for name in ('command', 'process_minutes'):  # They may differ.
    found.pop(name, None)
  # Older files lack newer settings; these have their defaults. Results of an
  # older search can only be drawn.
  found['settings'] = {**dataclasses.asdict(training.ComparisonSettings()),
                       'trials': 0,
                       **found.get('settings', {})}
  if found != stored.plain(about):
    raise stored.ResultsError(f'{path} holds another comparison; '
                              'choose another file')
  return data


def compute(rules: Sequence[str], settings: training.ComparisonSettings,
            path: str, environments: Sequence[str] = (), average_last: int = 1):
  """Compares rules with A2C and an untrained rule; see `compare`.

  Args:
    rules: see `sources.read_all`.
    settings: settings of the comparison.
    path: path of the file of results.
    environments: names, or only `all`; empty: the training environments of the
      first rule.
    average_last: see `sources.read_all`.
  """
  # Imported here, since it imports JAX, which drawing does not need.
  from lpg_distributed.analysis import sources
  _check_settings(settings)
  settings = dataclasses.replace(
      settings, chunk=min(settings.chunk, settings.num_lifetimes))
  found = sources.read_all(rules, average_last,
                           (training.A2C, training.UNTRAINED))
  names = _environments(environments, found[0].config)
  return compare([*found, sources.untrained(found[0])], names, settings, path)


def compare(rules: Sequence[Any], environments: Sequence[str],
            settings: training.ComparisonSettings, path: str
            ) -> tuple[dict[str, Any], dict[str, Any]]:
  """Compares rules kind by kind; see `training_environments.evaluate`.

  Args:
    rules: the rules, each a `sources.Source`.
    environments: names of the environments.
    settings: settings of the comparison.
    path: path of the file of results. Results in it are not computed again, and
      new ones are added to it.

  Returns:
    `about` and `data`, as in the file.

  Raises:
    ResultsError: the file holds another comparison.
  """
  # Imported here, since it imports JAX, which drawing does not need.
  from lpg_distributed.analysis import training_environments
  about = {'rules': {s.label: s.about for s in rules},
           'settings': dataclasses.asdict(settings)}
  data = _done(path, about)

  def keep(found):
    data[name] = {**found, 'process_minutes': spent + (
        time.process_time() - begin) / 60.}
    stored.save(path, NAME, about, data)

  for name in environments:
    begin, found = time.process_time(), data.get(name)
    spent = found['process_minutes'] if found else 0.
    training_environments.evaluate(
        name, rules, settings, experiment.report, found, keep)
  return about, data


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  figure, grid = style.panels(len(data), min(len(data), 3))
  labels = [*about['rules'], training.A2C]
  looks = dict(zip(labels, style.methods(
      [_published(label, about) or label for label in labels]).values()))
  for axes, (name, found) in zip(grid, data.items()):
    _draw_kind(axes, name, found, looks, about)
  broken = any(_is_broken(stored.as_array(row['mean']))
               for found in data.values()
               for label, row in found['rules'].items() if label in looks)
  style.note(figure, 'mean and 95 % interval over lifetimes; grey: optimum' + (
      '; a line breaks where no episode ended' if broken else ''))
  style.legend_below(figure, grid)
  return figure


def _draw_kind(axes, name: str, found: Mapping[str, Any],
               looks: Mapping[str, Any], about: Mapping[str, Any]) -> None:
  """Draws the learning curves of one environment; `looks` are by label."""
  top = -np.inf
  for label, look in looks.items():
    if label not in found['rules']:
      continue
    row = found['rules'][label]
    mean, error = (stored.as_array(row[key])
                   for key in ('mean', 'standard_error'))
    style.plot_interval(
        axes, np.array(found['env_steps']) / 1e6, mean,
        intervals.half_width(error, len(row['final'])), _name(label, about),
        look)
    top = max(top, np.nanmax(mean, initial=-np.inf))
  optimum = optimal_returns.optima().get(name)
  axes.set_title(name if optimum is None else
                 f'{name}\n(optimal: {optimum:.3g})')
  if optimum is not None and optimum < 2. * top:  # Else it hides the curves.
    axes.axhline(optimum, color='gray', linewidth=0.8)
  axes.set_xlabel('million environment steps')
  axes.set_ylabel('return')


def _is_broken(mean: np.ndarray) -> bool:
  """Whether a curve has a gap after its first point."""
  return bool(np.isnan(mean[np.argmax(~np.isnan(mean)):]).any())


def _published(label: str, about: Mapping[str, Any]) -> Optional[str]:
  """Returns the published name of the rule with this label, if it has one."""
  return about['rules'].get(label, {}).get('published')


def _name(label: str, about: Mapping[str, Any]) -> str:
  """Formats a rule's label for a legend; adds its published name."""
  name = _published(label, about)
  return f'{label} ({name})' if name not in (None, label) else label


def normalised(name: str, value: Optional[float]) -> Optional[float]:
  """Normalises a return: 0 for the random policy, 1 for the optimal one.

  None if the optimum is unknown.
  """
  entry = optimal_returns.load().get(name)
  if value is None or entry is None or entry['optimal'] is None:
    return None
  return (value - entry['random']) / (entry['optimal'] - entry['random'])


def summaries(found: Mapping[str, Any],
              what: str = 'final') -> dict[str, dict[str, Any]]:
  """Summarises the returns of each rule on one environment.

  Args:
    found: results of the environment.
    what: `final`, the final return, or `whole`, the mean over the curve.
  """
  return {label: intervals.summary(stored.as_array(row[what]))
          for label, row in found['rules'].items()}


_NAMES = {'learning_rate': 'rate', 'kl_cost': 'KL', 'entropy_cost': 'entropy',
          'critic_rate': 'critic', 'td_lambda': 'lambda'}
_ENDS = {1: ' (largest)', -1: ' (smallest)'}


def _chosen(found: Mapping[str, Any]) -> str:
  """Formats hyperparameters; marks those at an end of their last range."""
  edges, widened = found.get('at_edge', {}), found.get('widened', {})
  return ', '.join(
      f'{_NAMES.get(name, name)} {value:.3g}{"*" if name in widened else ""}'
      f'{_ENDS.get(edges.get(name), "")}'
      for name, value in found['best'].items())


def _pair(pair: Sequence[float], grid: Sequence[Sequence[float]]) -> str:
  """Formats a pair of an older file; marks values at the edge of the grid."""
  parts = []
  for value, values in zip(pair, zip(*grid)):
    low, high = min(values), max(values)
    ends = {} if low == high else {high: _ENDS[1],
                                   low: _ENDS[-1] if low else ''}
    parts.append(f'{value:g}{ends.get(value, "")}')
  return ', '.join(parts)


def _chosen_pair(label: str, found: Mapping[str, Any]) -> str:
  """Formats the hyperparameters of an older file, pairs of a grid."""
  if label == training.A2C:
    a2c = found.get('a2c')
    return _pair((a2c['learning_rate'], a2c['entropy_cost']),
                 a2c['pairs']) if a2c else '-'
  # The oldest files have a list, the probabilities that arms were drawn with.
  chosen = found['arms'].get(label)
  arm = chosen['arm'] if isinstance(chosen, Mapping) else None
  return '-' if arm is None else _pair(chosen['arms'][arm], chosen['arms'])


def _hyper_params(about, data) -> list[str]:
  """Formats a table of the agents' hyperparameters."""
  labels = [*trained(about), training.A2C]
  rows = []
  for name, found in data.items():
    if 'chosen' in found:
      cells = [_chosen(found['chosen'][label]) if label in found['chosen']
               else '-' for label in labels]
    else:
      cells = [_chosen_pair(label, found) for label in labels]
    rows.append([f'`{name}`', *cells])
  return markdown.table(['environment', *labels], rows)


def _search(settings: Mapping[str, Any]) -> str:
  """Describes how the hyperparameters were chosen."""
  if not settings.get('trials'):
    return ('Learning rate and KL cost (entropy cost of A2C), and whether they '
            'are at an end of their grid:')
  if settings['trials'] == 1:
    return 'Hyperparameters, the defaults:'
  return (
      'Hyperparameters of each rule and of A2C. Of '
      f'{settings["trials"]} trials on {settings["tuning_lifetimes"]} other '
      f'lifetimes each, the best {settings["finalists"]} were repeated on '
      f'{settings["final_lifetimes"]} further lifetimes, and the best of these '
      'was chosen. * marks a range that was widened, (largest) or (smallest) a '
      'value at an end of its last range:')


def trained(about: Mapping[str, Any]) -> list[str]:
  """Returns the labels of the trained rules."""
  return [label for label, rule in about['rules'].items()
          if not rule.get('untrained')]


def compared(label: str, other: str, data: Mapping[str, Any],
             what: str) -> dict[str, int]:
  """Returns `intervals.compare` by kind, for kinds with results of both.

  `what`: see `summaries`.
  """
  by_kind = {name: summaries(found, what) for name, found in data.items()}
  return {name: intervals.compare(rows[label], rows[other])
          for name, rows in by_kind.items() if {label, other} <= rows.keys()}


def _against(label: str, other: str, data) -> list[str]:
  """Counts kinds on which `label` is above or below `other`.

  Final returns and means over the whole curve are counted separately.
  """
  result = []
  for what, text in (('final', 'final return'), ('whole', 'whole curve')):
    found = list(compared(label, other, data, what).values())
    if found:
      result.append(f'{label} against {other}, {text}, '
                    f'{intervals.tally(found)}')
  return result


def _verdicts(about, data) -> list[str]:
  """Formats the differences whose intervals do not overlap."""
  labels = trained(about)
  result = []
  for i, label in enumerate(labels):
    for other in (training.A2C, *labels[i + 1:]):
      result += _against(label, other, data)
    by_kind = [summaries(found) for found in data.values()]
    ablations = [f'{label}, {name}' for name in (training.NO_Y,
                                                 training.HELD_PHI)]
    costs = [all(intervals.compare(s[label], s[a]) == 1 for a in ablations)
             for s in by_kind if all(a in s for a in ablations)]
    if costs:
      result.append(f'{label}: both ablations of its predictions cost '
                    f'return on {sum(costs)} of {len(costs)} kinds.')
  return result


def _raw(labels: Sequence[str], data, what: str) -> list[str]:
  """Formats a table of returns; `what`: see `summaries`."""
  rows = []
  for name, found in data.items():
    summary = summaries(found, what)
    optimum = optimal_returns.optima().get(name)
    rows.append([f'`{name}`', '-' if optimum is None else f'{optimum:.3g}',
                 *(intervals.text(summary.get(label)) for label in labels)])
  return markdown.table(['environment', 'optimal', *labels], rows)


def _normalised(labels: Sequence[str], data) -> list[str]:
  """Formats normalised final returns and means over learning curves."""
  rows = []
  for name, found in data.items():
    cells = []
    for label in labels:
      row = found['rules'].get(label)
      values = [None, None] if row is None else [normalised(
          name, intervals.summary(stored.as_array(row[key]))['mean'])
          for key in ('final', 'whole')]
      cells.append(' / '.join('-' if v is None else f'{v:.2f}'
                              for v in values))
    rows.append([f'`{name}`', *cells])
  return markdown.table(['environment', *labels], rows)


def lines(about, data):
  """Formats tables of raw and normalised returns, and their differences."""
  labels = sorted(dict.fromkeys(
      label for found in data.values() for label in found['rules']),
                  key=lambda label: label == training.A2C)  # A2C comes last.
  num = about['settings']['num_lifetimes']
  return [
      f'Final return of {num} held-out lifetimes, mean ± half of the '
      '95 % interval:', '', *_raw(labels, data, 'final'), '',
      'Mean of the whole curve:', '', *_raw(labels, data, 'whole'), '',
      'Normalised (random 0, optimal 1), final / mean of the whole '
      'curve:', '', *_normalised(labels, data), '',
      _search(about['settings']), '',
      *_hyper_params(about, data), '', *_verdicts(about, data)]
