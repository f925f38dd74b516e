"""Policy evaluation, Figures 4 to 6: exact values and predictions."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import evaluation_settings
from lpg_distributed.analysis import figure4
from lpg_distributed.analysis import figure5
from lpg_distributed.analysis import figure6
from lpg_distributed.analysis import policy_evaluation as evaluation
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import value_regression
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.envs import grid_world
from tests.analysis import run_testing
from tests.launch import command_testing

WORLD = grid_world.GridWorldSettings(
    3, 4, (grid_world.ObjectType(1, 1., 1., 0.),
           grid_world.ObjectType(1, -1., 1., 0.)), 500, True)
CELLS = np.array([[11, 5], [0, 6]])
SETTINGS = evaluation_settings.PredictionSettings(
    updates=40, records=2, num_envs=8, trajectory_steps=10)


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return run_testing.store(tmp_path_factory.mktemp('run') / 'run')


@pytest.fixture(scope='module')
def worlds():
  return evaluation.solve(WORLD, CELLS)


def test_values_by_linear_equations(worlds):
  """(I - gamma P) v = r, written from the rules of the grid."""
  for w, cells in enumerate(CELLS):
    chance, reward = np.zeros((12, 12)), np.zeros(12)
    for cell in range(12):
      for place, (down, right) in enumerate(((-1, 0), (0, -1), (0, 1),
                                             (1, 0))):
        row, column = cell // 4 + down, cell % 4 + right
        inside = 0 <= row < 3 and 0 <= column < 4
        target = row * 4 + column if inside else cell
        p = worlds.policy[w, cell, place]
        if target in cells:  # The episode ends.
          reward[cell] += p * (1. if target == cells[0] else -1.)
        else:
          chance[cell, target] += p
    for d, gamma in enumerate(evaluation.GAMMAS):
      exact = np.linalg.solve(np.eye(12) - gamma * chance, reward)
      visited = worlds.visited[w]
      np.testing.assert_allclose(worlds.values[d, w][visited], exact[visited],
                                 atol=1e-3)
    assert set(np.flatnonzero(~worlds.visited[w])) == set(cells)


def test_the_policy_is_near_optimal(worlds):
  """World 0: +1 is in the lower right corner, -1 in (1, 1)."""
  policy = worlds.policy[0]
  np.testing.assert_allclose(policy.sum(axis=-1), 1.)
  np.testing.assert_allclose(policy[10], [0.025, 0.025, 0.925, 0.025])
  np.testing.assert_allclose(policy[7], [0.025, 0.025, 0.025, 0.925])
  assert policy[1, 3] < 0.1  # Not from above down to -1.


def make_runner(worlds, **meta):
  config = run_testing.CONFIG
  config = dataclasses.replace(
      config, meta=dataclasses.replace(config.meta, **meta))
  return evaluation.PolicyEvaluation(config, worlds, SETTINGS, WORLD)


def test_only_predictions_change_and_values_converge(worlds):
  runner = make_runner(worlds, y_table_stddev=1.)
  eta = meta_update.init(run_testing.CONFIG).eta
  key = jax.random.PRNGKey(0)
  first = runner.run(eta, key, key)
  assert first.updates.tolist() == [0, 20, 40]
  assert first.y_logits.shape == (3, 2, 12, 4)
  visited = worlds.visited
  moved = np.abs(first.y_logits[-1] - first.y_logits[0]).max(axis=-1)
  assert np.all(moved[visited] > 1e-4) and np.all(moved[~visited] == 0.)
  # TD(lambda) moves values from 0 to the true ones.
  errors = [np.abs(values - worlds.values[0])[visited].mean()
            for values in first.values]
  assert errors[0] > 0.4 and errors[-1] < 0.15
  # Other predictions on the same trajectories.
  other = runner.run(eta, jax.random.PRNGKey(1), key)
  np.testing.assert_array_equal(first.values, other.values)
  assert np.any(first.y_logits[0] != other.y_logits[0])


def test_agents_act_by_the_given_policy(worlds):
  """Shares of actions on their trajectories are the policy's."""
  runner = make_runner(worlds)
  task, progress = jax.jit(runner._begin)(jax.random.PRNGKey(0),
                                          jax.random.PRNGKey(1))
  eta = meta_update.init(run_testing.CONFIG).eta
  counts = np.zeros((2, 12, 9))
  for i in range(30):
    keys = jax.random.split(jax.random.PRNGKey(i), 2)[None]
    progress = runner._advance(eta, task, progress, keys)
    t = jax.device_get(progress.trajectory)
    for w in range(2):
      cells = t.observation[:-1, w] - 12 * 3  # Both objects are there.
      np.add.at(counts[w], (cells, t.action[:, w]), 1)
  assert counts[..., [0, 2, 4, 6, 8]].sum() == 0
  num = counts.sum(axis=-1)
  often = num > 50
  shares = counts[..., evaluation.MOVES] / np.maximum(num, 1)[..., None]
  assert np.abs(shares - worlds.policy)[often].max() < 0.2
  assert often.sum() > 8


def test_lpg_v_has_no_predictions(worlds):
  config = dataclasses.replace(
      run_testing.CONFIG, rule=config_lib.RuleConfig(kind='lpg_v'),
      evaluator=config_lib.EvaluatorConfig(enabled=False))
  with pytest.raises(stored.ResultsError, match='no predictions; allowed: lpg'):
    evaluation.PolicyEvaluation(config, worlds, SETTINGS, WORLD)


def test_regression_finds_values_in_features_that_have_them():
  rng = np.random.default_rng(0)
  targets = rng.normal(size=(2, 12, 9))  # D, W, F
  visited = rng.random((12, 9)) < 0.8
  hint = np.stack([np.exp(0.5 * targets[1]), rng.normal(size=(12, 9))], -1)
  noise = rng.normal(size=(12, 9, 2))
  hint[~visited] = 1e6  # What is not visited must not matter.
  errors = value_regression.errors(np.stack([hint, noise]), targets,
                                   np.arange(12) >= 8, visited, 300)
  assert errors.shape == (2, 2, 4)
  mean = errors.mean(axis=-1)
  assert mean[0, 1] < 0.2 and mean[0, 0] > 0.5 and np.all(mean[1] > 0.5)


def test_correlations_by_hand():
  worlds = evaluation.GridBatch(
      np.zeros((2, 1)), np.zeros(0),
      values=np.array([[[1., 2., 3., 9.], [1., 2., 3., 9.]]]),
      visited=np.array([[True, True, True, False]] * 2))
  found = figure5._correlations(
      np.array([[2., 4., 6., -9.], [3., 2., 1., 9.]]), worlds)
  np.testing.assert_allclose(found['mean'], [0.], atol=1e-12)
  np.testing.assert_allclose(found['standard_error'], [1.])


COMMANDS = {
    'figure4': (figure4, ['--updates=4', '--records=1', '--num_envs=2']),
    'figure5': (figure5, ['--updates=4', '--records=2', '--num_envs=2',
                          '--train_worlds=3', '--test_worlds=2',
                          '--steps=20']),
    'figure6': (figure6, ['--updates=4', '--records=2', '--num_envs=2',
                          '--worlds=2']),
}


@pytest.mark.parametrize('name', COMMANDS)
def test_commands_store_results_and_redraw_figures(
    name, run_dir, tmp_path, capsys):
  """Computes results of a run and a figure; draws it again from the results."""
  module, flags = COMMANDS[name]
  results = str(tmp_path / f'{name}.json')
  assert command_testing.call(module.NAME,
      [f'--run=mine={run_dir}', f'--results={results}', *flags]) == 0
  out = capsys.readouterr().out
  assert 'mine' in out and f'{name}.svg' in out
  content = json.loads((tmp_path / f'{name}.json').read_text())
  assert f'lpg {name} --run=mine=' in content['about']['command']
  picture = (tmp_path / f'{name}.svg').read_bytes()
  again = str(tmp_path / 'again.svg')
  assert command_testing.call(module.NAME,
      [f'--results={results}', f'--figure={again}']) == 0
  assert (tmp_path / 'again.svg').read_bytes() == picture
  assert capsys.readouterr().out.splitlines()[:-1] == out.splitlines()[:-1]
  if name == 'figure4':
    _, data = stored.load(results, name)
    rule = sources.read(str(run_dir))
    np.testing.assert_allclose(data['phi'], lpg_network.embed(
        rule_vector.unravel(rule.config.rule, rule.eta),
        np.array(data['y'], np.float32)), rtol=1e-3, atol=1e-4)
  if name == 'figure5':
    assert '| gamma | TD(lambda) | phi(y), mine | phi(y), untrained |' in out
  if name == 'figure6':
    _, data = stored.load(results, name)
    assert set(data['mean']) == {'mine', 'untrained'}
    assert data['updates'] == [0, 2, 4]
    # Logits of deviation 0.1 over four: KL of about 0.01 * 3 / 4.
    np.testing.assert_allclose(data['mean']['mine'][0], 0.0075, rtol=0.3)
    assert len(data['example']['before'][0]) == len(data['cells']) == 81
  # Bad input is refused in one line.
  for bad in (['--results=nowhere.json'],
              [f'--run={run_dir}', '--updates=0', f'--results={results}'],
              [f'--run={run_dir}', '--updates=39', f'--results={results}'],
              [f'--run={run_dir}', '--seed=-1', f'--results={results}'],
              [f'--results={results}', '--figure=a.xyz']):
    assert command_testing.call(module.NAME, bad) == 2
    assert capsys.readouterr().err.count('\n') == 1
