"""Draws ablations of the predictions over the course of meta-training.

They show from which meta-step on a rule needs its predictions. Snapshots of eta
are evaluated on held-out lifetimes: unchanged, with alpha_y = 0, with phi held
at its mean, and with the age held, if the rule sees it. `follow` does this.
"""

import os

from lpg_distributed.analysis import follow
from lpg_distributed.analysis import stored
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style
from lpg_distributed.store import run_directory

NAME = 'ablation_curves'
_VARIANTS = {follow.FULL: 'rule', follow.NO_Y: 'alpha_y = 0',
             follow.HELD_PHI: 'phi held', follow.HELD_AGE: 'age held'}


def compute(run_dir: str):
  """Reads the rows that `follow` wrote; returns `about` and `data`."""
  config = run_directory.read_config(run_dir)
  rows = follow.read(run_dir)
  if not rows:
    raise stored.ResultsError(
        f'{run_dir} has no results of ablations; `lpg follow` computes them')
  about = {'run': os.path.basename(os.path.normpath(run_dir)),
           'seed': config.run.seed, 'initial_rule': config.run.initial_rule,
           'num_lifetimes': sorted({row['num_lifetimes'] for row in rows})}
  data = {'meta_steps': [row['step'] for row in rows], 'kinds': {
      name: {text: [[row[f'{label}/{name}{suffix}'] for row in rows]
                    for suffix in ('', '/standard_error')]
             for label, text in _VARIANTS.items()
             if f'{label}/{name}' in rows[-1]}
      for name in config.environments}}
  return about, data


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  kinds = data['kinds']
  figure, grid = style.panels(len(kinds), min(len(kinds), 3))
  looks = style.methods(list(_VARIANTS.values()))
  num = min(about['num_lifetimes'])
  for axes, (name, variants) in zip(grid, kinds.items()):
    for label, values in variants.items():
      mean, error = map(stored.as_array, values)
      axes.errorbar(data['meta_steps'], mean,
                    intervals.half_width(error, num), label=label, marker='.',
                    capsize=2, linewidth=1.2, **looks[label])
    axes.set_title(name)
    axes.set_xlabel('meta-step')
    axes.set_ylabel('return')
  style.note(figure, f'the run {about["run"]}: mean and 95 % interval of '
             f'{" or ".join(map(str, about["num_lifetimes"]))} lifetimes')
  style.legend_below(figure, grid)
  return figure


def lines(about, data):
  """Formats the results as lines of text."""
  labels = list(next(iter(data['kinds'].values())))
  rows = []
  for name, variants in data['kinds'].items():
    means = [stored.as_array(variants[label][0]) for label in labels]
    rows.append([f'`{name}`', *(' / '.join(f'{value:.3g}' for value in values)
                                for values in zip(*means))])
  num = ' or '.join(map(str, about['num_lifetimes']))
  return [f'{about["run"]}: {" / ".join(labels)}, mean final return of {num} '
          'held-out lifetimes, by meta-step', '',
          *markdown.table(['environment', *map(str, data['meta_steps'])],
                          rows)]
