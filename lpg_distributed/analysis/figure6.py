"""Figure 6: do predictions with different initial values converge?

The rule trains two predictions that differ in their random initial values,
under the same policy and on the same trajectories. Their distance is the
divergence D_KL(y_0 || y_1). An untrained rule is the control. A rule that
ignores predictions makes them agree too, so Figure 5 and the ablations must be
considered as well.
"""

import dataclasses
from typing import Sequence

import numpy as np

from lpg_distributed.analysis import evaluation_settings
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_settings
from lpg_distributed.figures import intervals
from lpg_distributed.figures import style

NAME = 'figure6'
_WORLD_SEED = 6
_SHOWN = 3  # dimensions of y that the example shows
MOMENTS = ('before', 'after')


def compute(rules: Sequence[str],
            settings: evaluation_settings.PredictionSettings,
            average_last: int = 1, seed: int = 0, num_worlds: int = 128):
  """Evaluates policies by rules; returns `about` and `data`.

  Args:
    rules: see `sources.read_all`.
    settings: settings of policy evaluation.
    average_last: see `sources.read_all`.
    seed: seed of layouts, agents and actions.
    num_worlds: number of grid worlds, each with its own policy.
  """
  # Imported here, since drawing does not need JAX.
  import jax

  from lpg_distributed.analysis import policy_evaluation as evaluation
  from lpg_distributed.analysis import sources
  experiment.check_counts(2, worlds=num_worlds)
  worlds = evaluation.make_worlds(num_worlds, _WORLD_SEED + 1000 * seed)
  init_0, init_1, key = jax.random.split(jax.random.PRNGKey(seed), 3)
  found = sources.read_all(rules, average_last,
                           (training_settings.UNTRAINED,))
  found.append(sources.untrained(found[0]))
  data = {'mean': {}, 'standard_error': {}}
  for source in found:
    experiment.report(f'evaluating {num_worlds} policies by {source.label}')
    runner = evaluation.PolicyEvaluation(source.config, worlds, settings)
    first, second = (runner.run(source.eta, init, key)
                     for init in (init_0, init_1))
    apart = evaluation.distance(source, first.y_logits, second.y_logits)
    per_world = (np.sum(apart * worlds.visited, axis=-1)
                 / worlds.visited.sum(axis=-1))  # [R+1, W]
    data['mean'][source.label] = per_world.mean(axis=-1)
    data['standard_error'][source.label] = intervals.standard_error(per_world)
    if 'example' not in data:
      pair = [evaluation.represent(source, history.y_logits[[0, -1], 0])
              for history in (first, second)]  # each [2, F, M]
      spread = pair[0][1][worlds.visited[0]].std(axis=0)
      chosen = np.argsort(-spread)[:_SHOWN]
      data['example'] = {
          'rule': source.label, 'dimensions': chosen,
          **{moment: [y[i][:, chosen] for y in pair]
             for i, moment in enumerate(MOMENTS)}}
  world = evaluation.UNSEEN
  about = {'rules': {s.label: s.about for s in found},
           'settings': dataclasses.asdict(settings), 'seed': seed,
           'worlds': num_worlds}
  return about, {
      'updates': first.updates, **data, 'height': world.height,
      'width': world.width, 'cells': evaluation.cells(),
      'visited': worlds.visited[0]}


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  example = data['example']
  columns = 2 * _SHOWN
  figure = style.figure(1.25 * columns, 4.6)
  grid = figure.add_gridspec(3, columns, height_ratios=(1, 1, 1.6))
  for row in range(2):
    for i, moment in enumerate(MOMENTS):
      y = stored.as_array(example[moment][row])
      for k, dimension in enumerate(example['dimensions']):
        axes = figure.add_subplot(grid[row, i * _SHOWN + k])
        axes.imshow(style.grid_picture(data, y[:, k]), cmap=style.COLOUR_MAP)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f'$y_{row}$[{dimension}]\n{moment}')
  axes = figure.add_subplot(grid[2, :])
  for name, look in style.methods(list(data['mean'])).items():
    mean, error = (np.array(data[key][name], float)
                   for key in ('mean', 'standard_error'))
    style.plot_interval(axes, data['updates'], mean, intervals.half_width(
        error, about['worlds']), name, look)
  axes.set_yscale('log')
  axes.set_xlabel('updates')
  axes.set_ylabel(r'$D_{KL}(y_0 \| y_1)$')
  axes.legend()
  style.note(figure, f'one world by {example["rule"]}; below, mean and 95 % '
             f'interval over {about["worlds"]} worlds')
  return figure


def lines(about, data):
  """Formats the results as lines of text."""
  return [f'{name}: divergence {mean[0]:.3g} at first, {mean[-1]:.3g} after '
          f'{data["updates"][-1]} updates, mean of {about["worlds"]} worlds'
          for name, mean in data['mean'].items()]
