"""Results of a rule that sees the age: its ablation, by name, in each place."""

import dataclasses

import jax
import numpy as np
import pytest

from lpg_distributed.analysis import ablation_curves
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import evaluation_settings
from lpg_distributed.analysis import figure7
from lpg_distributed.analysis import follow
from lpg_distributed.analysis import policy_evaluation
from lpg_distributed.analysis import report
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import training_environments
from lpg_distributed.analysis import training_settings
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.figures import style
from tests.analysis import run_testing
from tests.core import test_agent_life
from tests.launch import command_testing

NAME, RULE = run_testing.NAME, dataclasses.replace(
    run_testing.CONFIG.rule, sees_age=True, reward_input='normalised')
CONFIG = dataclasses.replace(run_testing.CONFIG, rule=RULE)
SETTINGS = training_settings.ComparisonSettings(
    num_lifetimes=2, chunk=2, trials=1, updates=6, num_envs=4, points=2,
    a2c=False)


@pytest.fixture(name='eta', scope='module')
def _eta():
  return np.asarray(rule_vector.ravel(test_agent_life.age_alone(RULE)))


def test_the_age_is_held_at_its_mean(eta):
  mean = 0.25
  held = rule_vector.unravel(RULE, evaluation.hold(
      RULE, eta, 'relative_age', mean))['lpg/lstm/linear']
  tree = rule_vector.unravel(RULE, eta)['lpg/lstm/linear']
  row = rule_inputs.index('relative_age')
  assert np.any(tree['w'][row]) and not np.any(held['w'][row])
  np.testing.assert_allclose(held['b'], tree['b'] + mean * tree['w'][row],
                             rtol=1e-6)
  names = 'full', 'no y', 'held phi', 'held age'
  variants = evaluation.with_ablations(RULE, eta, *names)
  assert list(variants) == ['full', 'held phi', 'held age', 'no y']
  assert variants['held age'].held == 'relative_age'
  assert 'held age' not in evaluation.with_ablations(
      run_testing.CONFIG.rule, eta, *names)


def test_figure_3_and_cards_have_the_ablation(eta):
  """Cards take the rows of Figure 3 by their labels."""
  found = training_environments.evaluate(
      NAME, [sources.Source('mine', eta, CONFIG, None, {})], SETTINGS)
  assert list(found['rules']) == [
      'mine', 'mine, alpha_y = 0', 'mine, phi held', 'mine, policy held',
      'mine, age held']


def test_figure_4_gives_the_rule_its_age():
  """Its agents are updated in blocks; the age goes on through them."""
  settings = evaluation_settings.PredictionSettings(
      updates=4, records=2, num_envs=2)
  worlds = policy_evaluation.make_worlds(1, 0)
  history = policy_evaluation.PolicyEvaluation(
      CONFIG, worlds, settings).run(
          np.asarray(rule_vector.ravel(rule_vector.init(
              RULE, jax.random.PRNGKey(1)))),
          jax.random.PRNGKey(2), jax.random.PRNGKey(3))
  assert np.isfinite(history.y_logits).all()


def test_each_table_and_figure_knows_its_name():
  assert follow.HELD_AGE in follow.VARIANTS
  assert report.HELD_AGE in report.VARIANTS
  names = ablation_curves._VARIANTS.values()
  assert training_settings.HELD_AGE in names
  looks = style.methods(list(names))
  assert len({tuple(look.values()) for look in looks.values()}) == len(names)
  ends = {NAME: {report.TRAINED: [1., 0.1], report.HELD_AGE: [0.5, 0.1]}}
  data = {'variants': {'LPG': {'ends': [ends]}}}
  about = {'meta_steps': 3, 'environments': [NAME]}
  assert f'| {report.HELD_AGE} |' in figure7.lines(about, data)[2]
  del ends[NAME][report.HELD_AGE]
  assert report.HELD_AGE not in figure7.lines(about, data)[2]


def test_sensitivity_names_the_age(tmp_path, monkeypatch, capsys, eta):
  monkeypatch.setattr(sources, 'read', lambda *_: sources.Source(
      'mine', eta, CONFIG, None, {'meta_steps': [2]}))
  results = str(tmp_path / 'a.json')
  assert command_testing.call('sensitivity', [
      '--run=mine=here', f'--results={results}', '--updates=3',
      '--num_lifetimes=2', '--snapshots=2']) == 0
  out = capsys.readouterr().out
  assert '| output | reward | probability | phi | age | lifetime |' in out
  assert (tmp_path / 'a.svg').exists()
