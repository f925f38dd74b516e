"""Figure 4: predictions in a grid world that meta-training did not use.

It shows (a) the grid, (b) the fixed policy and its true values, and (c) phi(y)
and the predictions after policy evaluation by the rule. phi(y) is the only
function of the predictions that the rule sees.
"""

import dataclasses

import numpy as np

from lpg_distributed.analysis import evaluation_settings
from lpg_distributed.analysis import stored
from lpg_distributed.figures import style

NAME = 'figure4'
_COLUMNS = 11
_WORLD_SEED = 4  # seed of a layout that no other experiment uses


def compute(rule: str, settings: evaluation_settings.PredictionSettings,
            average_last: int = 1, seed: int = 0):
  """Evaluates one policy by a rule; returns `about` and `data`.

  Args:
    rule: see `sources.read`.
    settings: settings of policy evaluation.
    average_last: see `sources.read`.
    seed: seed of the layout, the agent and the actions.
  """
  # Imported here, since drawing does not need JAX.
  import jax

  from lpg_distributed.analysis import policy_evaluation as evaluation
  from lpg_distributed.analysis import sources
  source = sources.read(rule, average_last)
  worlds = evaluation.make_worlds(1, _WORLD_SEED + 1000 * seed)
  keys = jax.random.split(jax.random.PRNGKey(seed))
  history = evaluation.PolicyEvaluation(source.config, worlds, settings).run(
      source.eta, *keys)
  about = {'rule': {'label': source.label, **source.about},
           'settings': dataclasses.asdict(settings), 'seed': seed}
  world = evaluation.UNSEEN
  return about, {
      'height': world.height, 'width': world.width,
      'object_cells': worlds.object_cells[0],
      'object_rewards': [kind.reward for kind in world.objects
                         for _ in range(kind.count)],
      'cells': evaluation.cells(), 'visited': worlds.visited[0],
      'policy': worlds.policy[0], 'values': worlds.values[0, 0],
      'td_values': history.values[-1, 0],
      'y': evaluation.represent(source, history.y_logits[-1, 0]),
      'phi': evaluation.phi(source, history.y_logits[-1, 0])}


def _position(data, cell):
  """Returns the column and the row of a cell."""
  return cell % data['width'], cell // data['width']


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  y = stored.as_array(data['y'])
  figure, grid = style.panels(3 + y.shape[1], _COLUMNS, scale=0.33)
  for axes in grid:
    axes.set_xticks([])
    axes.set_yticks([])
  world, truth, seen, *rest = grid
  world.imshow(np.zeros((data['height'], data['width'])), cmap='Greys',
               vmax=1.)
  for cell, reward in zip(data['object_cells'], data['object_rewards']):
    world.text(*_position(data, cell), f'{reward:+g}', ha='center', va='center',
               fontsize=7)
  world.set_title('(a)')
  truth.imshow(style.grid_picture(data, stored.as_array(data['values'])),
               cmap=style.COLOUR_MAP)
  arrows = np.array([(0, -1), (-1, 0), (1, 0), (0, 1)])  # x, y of MOVES
  for cell, chances, visited in zip(data['cells'], data['policy'],
                                    data['visited']):
    if visited:
      x, y_place = _position(data, cell)
      dx, dy = 0.35 * arrows[int(np.argmax(chances))]
      truth.arrow(x - dx / 2, y_place - dy / 2, dx, dy, width=0.02,
                  head_width=0.2, color='white', length_includes_head=True)
  truth.set_title('(b)')
  seen.imshow(style.grid_picture(data, stored.as_array(data['phi'])),
              cmap=style.COLOUR_MAP)
  seen.set_title('(c)')
  for i, axes in enumerate(rest):
    axes.imshow(style.grid_picture(data, y[:, i]), cmap=style.COLOUR_MAP)
    axes.set_title(f'$y_{{{i}}}$')
  style.note(figure, f'by {about["rule"]["label"]}: (a) rewards, (b) policy '
             r'and true values, (c) $\varphi(y)$, then the predictions; '
             'bright is high')
  return figure


def lines(about, data):
  """Formats the results as lines of text."""
  y, phi, values = (stored.as_array(data[name])
                    for name in ('y', 'phi', 'values'))
  visited = np.array(data['visited'])
  spread = y[visited].std(axis=0)
  correlation = lambda x: abs(
      np.corrcoef(x[visited], values[visited])[0, 1])
  correlations = [correlation(y[:, i]) for i in range(y.shape[1])
                  if spread[i] > 1e-6]
  return [f'{about["rule"]["label"]}: of {y.shape[1]} predictions '
          f'{len(correlations)} differ between cells; the largest absolute '
          'correlation with the true values is '
          f'{max(correlations, default=0.):.2f}, that of phi(y) is '
          f'{correlation(phi):.2f}']
