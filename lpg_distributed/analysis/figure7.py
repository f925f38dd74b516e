"""Figure 7: variants of meta-training, compared over seeds.

It reads the finished runs of a study; see `studies`. Curves show final returns
of lifetimes over the course of meta-training. They are normalised (random
policy 0, optimal 1) and averaged over the environments whose optimum is known.
A study has few seeds, so each seed is drawn in place of an interval. The tables
show held-out lifetimes after meta-training, with both ablations of each rule.
"""

from typing import Any, Mapping, Optional, Sequence

import numpy as np

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import report
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import studies
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory

NAME = 'figure7'


def returns_by_part(run_dir: str, environments: Sequence[str],
                    bounds: np.ndarray) -> np.ndarray:
  """Mean of the metric `return/E` within parts of meta-training.

  Returns:
    [kinds, parts]; NaN for a part without the metric.
  """
  rows = list(loggers.read_metrics(run_dir, 'learner', ('return/',)))
  result = np.full((len(environments), len(bounds) - 1), np.nan)
  for i, name in enumerate(environments):
    found = [(row['step'], row[f'return/{name}']) for row in rows
             if row.get(f'return/{name}') is not None]
    if not found:
      continue
    steps, values = np.array(found, float).T
    part = np.searchsorted(bounds, steps, side='right') - 1
    for p in range(len(bounds) - 1):
      if np.any(part == p):
        result[i, p] = values[part == p].mean()
  return result


def normalised_curve(run_dir: str, environments: Sequence[str],
                     bounds: np.ndarray) -> np.ndarray:
  """Mean normalised return over kinds, [parts].

  Kinds without a known optimum are left out. NaN if a kind has no return in a
  part.
  """
  raw = returns_by_part(run_dir, environments, bounds)
  known = [[figure3.normalised(name, value) for value in row]
           for name, row in zip(environments, raw)
           if figure3.normalised(name, 0.) is not None]
  return (np.array(known, float).mean(axis=0) if known
          else np.full(len(bounds) - 1, np.nan))


def _evaluation(run_dir: str, environments: Sequence[str]
                ) -> Optional[dict[str, Any]]:
  """Returns mean and error of the final comparison, by kind and variant."""
  rows = list(loggers.read_metrics(run_dir, 'evaluation'))
  if not rows:
    return None
  return {name: {variant: [rows[-1][f'{variant}/{name}'],
                           rows[-1][f'{variant}/{name}/standard_error']]
                 for variant in report.VARIANTS
                 if f'{variant}/{name}' in rows[-1]}
          for name in environments}


def compute(root: str, points: int = 20):
  """Reads a study; returns `about` and `data`.

  Args:
    root: the directory of the study's runs.
    points: number of points of each curve.
  """
  # Imported here, since it imports JAX, which drawing does not need.
  from lpg_distributed.analysis import sources
  study = studies.read(root)
  experiment.check_counts(points=points)
  data: dict[str, Any] = {'variants': {}}
  about: dict[str, Any] = {'study': study['study'], 'set': study['set']}
  for variant in study['variants']:
    curves, ends, seeds = [], [], []
    for seed in study['seeds']:
      run_dir = studies.run_dir(root, variant, seed)
      if not sources.reached_end(run_dir):
        continue
      config = run_directory.read_config(run_dir)
      if about.get('meta_steps', config.run.meta_steps) != (
          config.run.meta_steps):
        raise stored.ResultsError(
            f'{run_dir} has {config.run.meta_steps} meta-steps, other runs of '
            f'the study {about["meta_steps"]}; allowed: the same for all')
      bounds = np.linspace(0, config.run.meta_steps, points + 1)
      curves.append(normalised_curve(run_dir, config.environments, bounds))
      ends.append(_evaluation(run_dir, config.environments))
      seeds.append(seed)
      about.update(
          environments=config.environments, meta_steps=config.run.meta_steps,
          env_steps=config.run.meta_steps * config.meta.window_env_steps
                    * config.meta.num_lifetimes)
      data['meta_steps'] = (bounds[:-1] + bounds[1:]) / 2.
    if seeds:
      data['variants'][variant] = {'seeds': seeds, 'curves': curves,
                                   'ends': ends}
  if not data['variants']:
    raise stored.ResultsError(f'{root} has no run that reached its end')
  return about, data


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  variants = {name: stored.as_array(found['curves'])
              for name, found in data['variants'].items()}
  figure, grid = style.panels(len(variants), 3, sharex=True, sharey=True)
  first = next(iter(variants))
  looks = style.methods(list(variants))
  for axes, (name, curves) in zip(grid, variants.items()):
    if name != first:
      axes.plot(data['meta_steps'], variants[first].mean(axis=0),
                label=f'mean of {first}', **looks[first])
    axes.plot(data['meta_steps'], curves.T, linewidth=0.7,
              color=looks[name]['color'])
    axes.plot(data['meta_steps'], curves.mean(axis=0), linewidth=2,
              **looks[name])
    axes.set_title(f'{name} ({len(curves)} seed{"s"[:len(curves) > 1]})')
    axes.set_xlabel('meta-step')
    axes.set_ylabel('normalised return')
    axes.label_outer()
  gaps = any(np.isnan(curves).any() for curves in variants.values())
  style.note(
      figure, f'{about["study"]}, mean over {len(about["environments"])} '
      'kinds; thin: one seed, thick: mean of seeds' + (
          '; a line breaks where no lifetime ended' if gaps else ''))
  style.legend_below(figure, grid)
  return figure


def _variants(data) -> list[str]:
  """Returns the variants of the tables; the age's only if a rule sees it."""
  seen = {name for found in data['variants'].values()
          for end in found['ends'] if end
          for kind in end.values() for name in kind}
  return [name for name in report.VARIANTS
          if name in seen or name != report.HELD_AGE]


def _cells(found: Mapping[str, Any], environment: str,
           variants: Sequence[str]) -> list[str]:
  """Formats one cell per variant: the means of the seeds."""
  cells = []
  for variant in variants:
    values = [end[environment][variant][0] for end in found['ends']
              if end and variant in end[environment]]
    cells.append(', '.join(f'{value:.2f}' for value in values) or '-')
  return cells


def lines(about, data):
  """Formats the results as lines of text."""
  variants = _variants(data)
  result = [f'Returns at the end of new lifetimes, one number for each seed, '
            f'after {about["meta_steps"]} meta-steps:']
  for environment in about['environments']:
    result += ['', *markdown.table([environment, *variants], (
        [name, *_cells(found, environment, variants)]
        for name, found in data['variants'].items()))]
  return result
