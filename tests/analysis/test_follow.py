"""Following a run, studies and their figure."""

import itertools
import json
import os

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import follow
from lpg_distributed.analysis import report
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import studies
from lpg_distributed.analysis import training_curves
from lpg_distributed.store import eta_file
from lpg_distributed.store import loggers
from tests.analysis import run_testing
from tests.launch import command_testing

NAME, CONFIG = run_testing.NAME, run_testing.CONFIG


def test_each_snapshot_is_evaluated_once(tmp_path, capsys, monkeypatch):
  run_dir = run_testing.store(tmp_path / 'run')
  follower = follow.Follower(run_dir, 4)
  for step, path in follower.due():
    follower.evaluate(step, path)
  rows = follow.read(run_dir)
  assert [row['step'] for row in rows] == [2, 4] and not follower.due()
  for label in ('full', 'alpha_y=0', 'phi_held'):
    assert np.isfinite(rows[0][f'{label}/{NAME}'])
    assert f'{label}/{NAME}/standard_error' in rows[0]
  numbers = [{k: v for k, v in row.items() if k != 'step'} for row in rows]
  assert numbers[0] != numbers[1]
  # Each snapshot has its own eta and state of the bandit.
  (_, first), (_, second) = sources.snapshots(run_dir)
  for path, row in ((second, rows[1]), (first, rows[0])):
    (score,) = follower._comparisons[NAME].scores(
        {'a': evaluation.Variant(eta_file.load(path).eta)},
        follower._bandit()).values()
    np.testing.assert_allclose(row[f'full/{NAME}'], score.mean, rtol=1e-5)
  # The command finds nothing to do, then computes one row.
  flags = [f'--run_dir={run_dir}', '--num_lifetimes=4']
  assert command_testing.call('follow', flags) == 0
  assert not capsys.readouterr().out
  with_rows = os.path.getsize(training_curves.draw(run_dir))
  os.remove(os.path.join(run_dir, 'metrics', 'ablations.jsonl'))
  assert os.path.getsize(training_curves.draw(run_dir)) != with_rows
  monkeypatch.setattr(follow, 'read', lambda run_dir: rows[:1])
  monkeypatch.setattr(follow.Follower, 'evaluate', lambda *args: rows[1])
  assert command_testing.call('follow', flags) == 0
  out = capsys.readouterr().out
  assert out.startswith(f'meta-step 4: {NAME}: full ') and out.count('\n') == 1


def test_ablation_curves_by_hand(tmp_path, capsys):
  run_dir = run_testing.store(tmp_path / 'run')
  flags = [f'--run_dir={run_dir}', f'--results={tmp_path}/a.json']
  assert command_testing.call('ablation_curves', flags) == 2
  error = capsys.readouterr().err
  assert 'has no results of ablations' in error and error.count('\n') == 1
  logger = loggers.MetricsLogger(run_dir, follow.FILE, tensorboard=False)
  for step, values in ((2, (0.1, 0.2, 0.3)), (4, (0.9, 0.25, -0.5))):
    row = {'num_lifetimes': 7}
    for label, value in zip(('full', 'alpha_y=0', 'phi_held'), values):
      row |= {f'{label}/{NAME}': value,
              f'{label}/{NAME}/standard_error': abs(value) / 10.}
    logger.write(step, row)
  logger.close()
  assert command_testing.call('ablation_curves', flags) == 0
  assert (f'| environment | 2 | 4 |\n|---|---|---|\n| `{NAME}` | '
          '0.1 / 0.2 / 0.3 | 0.9 / 0.25 / -0.5 |\n'
          ) in capsys.readouterr().out
  about, data = stored.load(f'{tmp_path}/a.json', 'ablation_curves')
  assert about['num_lifetimes'] == [7] and data['kinds'][NAME]['phi held'] == [
      [0.3, -0.5], [0.03, 0.05]]
  picture = (tmp_path / 'a.svg').read_bytes()
  assert command_testing.call('ablation_curves',
      [f'--results={tmp_path}/a.json', f'--figure={tmp_path}/b.svg']) == 0
  assert (tmp_path / 'b.svg').read_bytes() == picture


def test_every_other_snapshot_is_due(tmp_path, monkeypatch):
  run_dir = run_testing.store(tmp_path / 'run', snapshots=(1, 2, 3, 4))
  follower = follow.Follower(run_dir, 2, every=2)
  assert [step for step, _ in follower.due()] == [2, 4]
  assert not sources.reached_end(run_dir)  # It has a million meta-steps to go.
  monkeypatch.setattr(sources.run_directory, 'read_config', lambda path: (
      CONFIG if path != run_dir else CONFIG.__class__(
          **{**CONFIG.__dict__, 'run': config_lib.RunConfig(meta_steps=5)})))
  assert sources.reached_end(run_dir)


def test_a_run_without_snapshots_is_refused_in_one_line(tmp_path, capsys):
  run_dir = run_testing.store(tmp_path / 'run', snapshots=())
  assert command_testing.call('follow', [f'--run_dir={run_dir}']) == 2
  assert 'no snapshots' in capsys.readouterr().err
  assert command_testing.call('follow', [f'--run_dir={tmp_path}/none']) == 2
  assert capsys.readouterr().err.count('\n') == 1


def test_variants_of_studies_have_the_settings_of_their_names():
  for name, study in studies.STUDIES.items():
    configs = [studies.config_of(study, variant) for variant in study.variants]
    for config in configs:
      assert not config.evaluator.enabled and config.run.num_workers == 1, name
    for (one, first), (other, second) in itertools.combinations(
        zip(study.variants, configs), 2):
      assert first != second, (name, one, other)
  ablations = studies.load('ablations')
  config = lambda variant: studies.config_of(ablations, variant)
  assert config('LPG').meta.y_hat_cost == 0.001
  assert config('without L2').meta.pi_hat_cost == 0.
  assert config('without entropy of y').meta.prediction_entropy_cost == 0.
  assert config('without softmax of y').rule.kind == 'lpg_vector'
  fixed = config('fixed hyperparameters').agents
  assert fixed['chain_short'].arms == ((40., 0.5),)
  assert fixed['random_dense'].arms == ((0.001, 0.5),)
  assert fixed['chain_state_distraction'].arms == ((0.005, 0.5),)
  blind = studies.config_of(studies.load('predictions'), 'LPG')
  assert not blind.rule.sees_policy
  assert blind.meta == config('LPG').meta
  assert {cost for _, cost in blind.agents['chain_short'].arms} == {1., 5.}
  with pytest.raises(studies.StudyError, match='allowed: ablations, predict'):
    studies.load('none')


def store_study(root, returns):
  """Writes fake runs of a study; `returns` by (variant, seed)."""
  for (variant, seed), value in returns.items():
    run_dir = run_testing.store(root / 'new', meta_step=4, snapshots=())
    logger = loggers.MetricsLogger(run_dir, 'learner', resume_step=0,
                                   tensorboard=False)
    for step in range(4):
      logger.write(step, {f'return/{NAME}': value + 0.1 * step})
    logger.close()
    logger = loggers.MetricsLogger(run_dir, 'evaluation', tensorboard=False)
    logger.write(4, {f'{name}/{NAME}{suffix}': value
                     for name in (report.UNTRAINED, report.TRAINED,
                                  report.NO_Y, report.HELD_PHI)
                     for suffix in ('', '/standard_error')})
    logger.close()
    path = os.path.join(run_dir, 'config.json')
    with open(path, encoding='utf-8') as f:
      config = json.load(f)
    config['run']['meta_steps'] = 4
    with open(path, 'w', encoding='utf-8') as f:
      json.dump(config, f)
    os.rename(run_dir, studies.run_dir(str(root), variant, seed))
  with open(root / 'study.json', 'w', encoding='utf-8') as f:
    json.dump({'study': 'ablations', 'set': [], 'variants':
               ['LPG', 'without L2', 'LPG-V'], 'seeds': [0, 1]}, f)


def test_figure7_by_hand(tmp_path, capsys):
  """Means within parts; a variant without runs is left out."""
  store_study(tmp_path, {('LPG', 0): 0.5, ('LPG', 1): 0.1,
                         ('without L2', 1): -0.2})
  results = str(tmp_path / 'figure7.json')
  assert command_testing.call('figure7',
      [f'--study={tmp_path}', f'--results={results}', '--points=2']) == 0
  about, data = stored.load(results, 'figure7')
  assert about['meta_steps'] == 4 and data['meta_steps'] == [1., 3.]
  assert list(data['variants']) == ['LPG', 'without L2']
  # On a chain the random policy has 0 and the optimal one 1.
  np.testing.assert_allclose(data['variants']['LPG']['curves'],
                             [[0.55, 0.75], [0.15, 0.35]])
  assert data['variants']['without L2']['seeds'] == [1]
  out = capsys.readouterr().out
  assert '| LPG | 0.50, 0.10 | 0.50, 0.10 | 0.50, 0.10 | 0.50, 0.10 |' in out
  picture = (tmp_path / 'figure7.svg').read_bytes()
  assert command_testing.call('figure7', [f'--results={results}',
                       f'--figure={tmp_path}/b.svg']) == 0
  assert (tmp_path / 'b.svg').read_bytes() == picture
  capsys.readouterr()
  assert command_testing.call('figure7',
      [f'--study={tmp_path}/none', f'--results={results}']) == 2
  assert 'holds no study' in capsys.readouterr().err
