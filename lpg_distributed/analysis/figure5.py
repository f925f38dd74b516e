"""Figure 5: do predictions encode true values at several discounts?

During policy evaluation at discount 0.995, networks with one hidden layer are
trained to regress true values at several discounts. Their input is the
predictions, or the value of TD(lambda). Errors are measured on held-out grid
worlds. The predictions of an untrained rule are the control. For phi(y), the
function of the predictions that a rule sees, the correlation with true values
is reported without a regression.
"""

import dataclasses
from typing import Sequence

import numpy as np

from lpg_distributed.analysis import evaluation_settings
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_settings
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style

NAME = 'figure5'
TD = 'TD(lambda)'
_WORLD_SEED = 5


def _correlations(numbers: np.ndarray, worlds) -> dict[str, np.ndarray]:
  """Correlations over cells with true values, for D discounts, by statistic.

  Args:
    numbers: [W, F], a number per cell of W worlds.
    worlds: their true values.

  Returns:
    Statistics over worlds, [D] each.
  """
  found = [intervals.summary([
      np.corrcoef(x[visited], value[visited])[0, 1]
      for x, value, visited in zip(numbers, values, worlds.visited)])
           for values in worlds.values]
  return {key: np.array([summary[key] for summary in found], np.float64)
          for key in ('mean', 'standard_error')}


def compute(rules: Sequence[str],
            settings: evaluation_settings.PredictionSettings,
            average_last: int = 1, seed: int = 0, train_worlds: int = 40,
            test_worlds: int = 10, regression_steps: int = 1000):
  """Evaluates policies by rules; returns `about` and `data`.

  Args:
    rules: see `sources.read_all`.
    settings: settings of policy evaluation.
    average_last: see `sources.read_all`.
    seed: seed of layouts, agents and actions.
    train_worlds: number of grid worlds that the regression is trained on.
    test_worlds: number of grid worlds whose errors are reported.
    regression_steps: training steps of the regression.
  """
  # Imported here, since drawing does not need JAX.
  import jax

  from lpg_distributed.analysis import policy_evaluation as evaluation
  from lpg_distributed.analysis import sources
  from lpg_distributed.analysis import value_regression
  experiment.check_counts(train_worlds=train_worlds, test_worlds=test_worlds,
                          steps=regression_steps)
  num = train_worlds + test_worlds
  worlds = evaluation.make_worlds(num, _WORLD_SEED + 1000 * seed)
  is_test = np.arange(num) >= train_worlds
  keys = jax.random.split(jax.random.PRNGKey(seed))
  found = sources.read_all(rules, average_last,
                           (TD, training_settings.UNTRAINED))
  found.append(sources.untrained(found[0]))
  curves, correlations = {}, {}
  for source in found:
    experiment.report(f'evaluating {num} policies by {source.label}')
    history = evaluation.PolicyEvaluation(source.config, worlds, settings).run(
        source.eta, *keys)
    regress = lambda x: value_regression.errors(
        x, worlds.values, is_test, worlds.visited, regression_steps)
    if TD not in curves:  # All rules have the same trajectories, and so values.
      curves[TD] = regress(history.values[..., None])
      correlations[TD] = _correlations(history.values[-1], worlds)
    curves[source.label] = regress(
        evaluation.represent(source, history.y_logits))
    correlations[source.label] = _correlations(
        evaluation.phi(source, history.y_logits[-1]), worlds)
  test = worlds.visited & is_test[:, None]
  about = {'rules': {s.label: s.about for s in found},
           'settings': dataclasses.asdict(settings), 'seed': seed,
           'train_worlds': train_worlds, 'test_worlds': test_worlds,
           'regression_steps': regression_steps}
  return about, {
      'updates': history.updates, 'gammas': evaluation.GAMMAS,
      # The error of predicting the mean.
      'variance': [values[test].var() for values in worlds.values],
      'mean': {name: errors.mean(axis=-1).T for name, errors
               in curves.items()},
      'standard_error': {
          name: (intervals.standard_error(errors).T if errors.shape[-1] > 1
                 else np.zeros(errors.shape[1::-1]))
          for name, errors in curves.items()},
      'correlations': correlations}


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  figure, grid = style.panels(len(data['gammas']), 3)
  looks = style.methods(list(data['mean']))
  for i, (axes, gamma) in enumerate(zip(grid, data['gammas'])):
    for name, look in looks.items():
      mean, error = (np.array(data[key][name][i], float)
                     for key in ('mean', 'standard_error'))
      style.plot_interval(axes, data['updates'], mean, intervals.half_width(
          error, about['test_worlds']), name, look)
    axes.axhline(data['variance'][i], color='gray', linewidth=0.8,
                 label='variance of the values')
    axes.set_title(f'values at discount {gamma:g}')
    axes.set_xlabel('updates')
    axes.set_ylabel('mean squared error')
    axes.set_ylim(bottom=0.)
  style.note(figure, 'mean and 95 % interval over '
             f'{about["test_worlds"]} held-out worlds')
  style.legend_below(figure, grid[:1])
  return figure


def lines(about, data):
  """Formats the results as lines of text."""
  result = [f'Mean squared error on {about["test_worlds"]} held-out worlds '
            f'after {data["updates"][-1]} updates, ± half of the 95 % '
            'interval:', '',
            *markdown.table(['gamma', 'variance', *data['mean']], (
                [f'{gamma:g}', f'{data["variance"][i]:.3g}',
                 *(_cell(data['mean'][name][i][-1],
                         data['standard_error'][name][i][-1],
                         about['test_worlds']) for name in data['mean'])]
                for i, gamma in enumerate(data['gammas'])))]
  if 'correlations' not in data:  # Older results lack them.
    return result
  names = [name if name == TD else f'phi(y), {name}'
           for name in data['correlations']]
  num = about['train_worlds'] + about['test_worlds']
  return [
      *result, '',
      'Correlation with the true values over the cells of a world, mean of '
      f'{num} worlds, ± half of the 95 % interval:', '',
      *markdown.table(['gamma', *names], (
          [f'{gamma:g}', *(
              f'{stored.as_array(found["mean"])[i]:.2f} ± ' + '{:.2f}'.format(
                  intervals.half_width(found['standard_error'][i], num))
              for found in data['correlations'].values())]
          for i, gamma in enumerate(data['gammas'])))]


def _cell(mean: float, error: float, num: int) -> str:
  return f'{mean:.3g} ± {intervals.half_width(error, num):.1g}'
