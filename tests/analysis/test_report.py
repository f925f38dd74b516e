"""The report at the end of a run: all variants, figure, and failures."""

import dataclasses
import json
import os

from matplotlib import image
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import report
from lpg_distributed.analysis import training_curves
from lpg_distributed.core import meta_update
from lpg_distributed.core.update_rules import registry
from lpg_distributed.nodes import bandit_server
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory

NAME = 'chain_short'
CONFIG = config_lib.Config(
    environments=(NAME,),
    agents={NAME: config_lib.AgentConfig(lifetime_env_steps=60 * 3 * 8)},
    rule=config_lib.RuleConfig(num_predictions=4, embedding_size=3,
                               lstm_size=3),
    meta=config_lib.MetaConfig(num_lifetimes=2, num_envs=3, num_updates=2,
                               trajectory_steps=8))


def store_run(path, meta_step=5, config=CONFIG):
  """Writes the files of a fake run."""
  run = run_directory.RunDirectory.open(str(path), config)
  run.close()
  eta_file.save(os.path.join(run.path, 'eta.npz'),
                30. * meta_update.init(config).eta, config.rule,
                meta_step=meta_step)
  bandit = json.dumps(bandit_server.BanditServer(config).get_state()).encode()
  checkpointing.commit(run.path, meta_step, [checkpointing.write_part(
      run.path, meta_step, 'bandit', bandit)], kept=1)
  logger = loggers.MetricsLogger(run.path, 'learner', tensorboard=False)
  for step in range(meta_step):
    row = {f'y_entropy/{NAME}': 1.3 + 0.01 * step, 'gradient_norm': 0.1 + step}
    if step != 2:  # No lifetime ends in this step.
      row[f'return/{NAME}'] = 0.1 * step
    logger.write(step, row)
  logger.close()
  return run.path


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
  run_dir = store_run(tmp_path_factory.mktemp('run') / 'run')
  report.evaluate(run_dir, CONFIG, num_lifetimes=3)
  return run_dir


_T_2 = 4.302653  # Student's t of three samples, 97.5 %


def test_every_variant_is_reported(evaluated):
  lines = report.summarise(evaluated, CONFIG)
  (row,) = loggers.read_metrics(evaluated, 'evaluation')
  assert row['step'] == 5 and row['num_lifetimes'] == 3
  assert '3 new lifetimes, after 5 meta-steps' in lines[0]
  parts = lines[1].removeprefix(f'  {NAME}: ').split('; ')
  variants = ('untrained', 'trained', 'trained, alpha_y = 0',
              'trained, phi held at its mean')
  assert parts == [
      f'{v} {row[f"{v}/{NAME}"]:.2f} +- '
      f'{_T_2 * row[f"{v}/{NAME}/standard_error"]:.2f}' for v in variants]
  assert len({row[f'{v}/{NAME}'] for v in variants}) > 1
  for line, file in zip(lines[-2:], ('figures/training.png', 'eta.npz')):
    assert line.endswith(file) and os.path.exists(line.split(': ')[1])
  assert len(lines) == 4


def test_the_same_rule_is_evaluated_once(evaluated, monkeypatch, capsys):
  from lpg_distributed.analysis import evaluation
  monkeypatch.setattr(evaluation, 'evaluate', None)
  report.evaluate(evaluated, CONFIG)
  assert not capsys.readouterr().err


def test_lpg_v_is_reported_without_the_ablation_of_y(tmp_path, monkeypatch):
  from lpg_distributed.analysis import evaluation
  run_dir = store_run(tmp_path / 'run')
  monkeypatch.setattr(
      evaluation, 'evaluate', lambda config, name, variants, *_: {
          variant: evaluation.KindScore(1., 0.5, 3) for variant in variants})
  config = dataclasses.replace(
      CONFIG, rule=dataclasses.replace(CONFIG.rule, kind='lpg_v'),
      evaluator=dataclasses.replace(CONFIG.evaluator, enabled=False))
  report.evaluate(run_dir, config, num_lifetimes=3)
  assert report.summarise(run_dir, config)[1] == (
      f'  {NAME}: untrained 1.00 +- 2.15; trained 1.00 +- 2.15; '
      'trained, phi held at its mean 1.00 +- 2.15')


def test_a_rule_with_another_network_has_no_phi_to_hold(tmp_path, monkeypatch):
  """Its comparison at the end of a run has only two variants."""
  monkeypatch.setitem(registry.RULES, 'toy',
                      registry.Row('tests.core.toy_rule'))
  config = dataclasses.replace(
      CONFIG, rule=dataclasses.replace(CONFIG.rule, kind='toy'),
      evaluator=dataclasses.replace(CONFIG.evaluator, enabled=False))
  run_dir = store_run(tmp_path / 'run', config=config)
  report.evaluate(run_dir, config, num_lifetimes=3)
  (row,) = loggers.read_metrics(run_dir, 'evaluation')
  compared = {key.split('/')[0] for key in row if f'/{NAME}' in key}
  assert compared == {report.UNTRAINED, report.TRAINED}


def assert_figure(path):
  with open(path, 'rb') as f:
    assert f.read(8) == b'\x89PNG\r\n\x1a\n'
  pixels = image.imread(path)[..., :3]
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
  # The curve of returns is blue.
  blue = (pixels[..., 2] > 0.6) & (pixels[..., 0] < 0.3)
  assert blue.sum() > 50


def test_the_figure_is_drawn(evaluated, tmp_path):
  path = training_curves.draw(evaluated)
  assert path == os.path.join(evaluated, 'figures', 'training.png')
  assert_figure(path)
  assert_figure(training_curves.draw(evaluated, str(tmp_path / 'other.png')))


def test_a_run_without_an_evaluation_is_summarised(tmp_path):
  run_dir = store_run(tmp_path / 'run', meta_step=1)
  lines = report.summarise(run_dir, CONFIG)
  assert len(lines) == 2 and lines[0].startswith('figure: ')
  with open(training_curves.draw(run_dir), 'rb') as f:
    assert f.read(4) == b'\x89PNG'


def draw_error(*args):
  with pytest.raises(config_lib.ConfigError) as error:
    training_curves.draw(*args)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_errors_are_one_line(tmp_path):
  assert 'is no run directory' in draw_error(str(tmp_path / 'none'))
  run_dir = store_run(tmp_path / 'run', meta_step=1)
  assert 'cannot be drawn' in draw_error(
      run_dir, str(tmp_path / 'nowhere' / 'a.png'))
  assert 'cannot be drawn' in draw_error(run_dir, str(tmp_path / 'a.xyz'))
  os.remove(os.path.join(run_dir, 'metrics', 'learner.jsonl'))
  assert 'no metrics yet' in draw_error(run_dir)
  (tmp_path / 'run' / 'config.json').write_text('{"environments": [')
  assert 'not readable' in draw_error(run_dir)


def test_moving_mean_by_hand():
  np.testing.assert_allclose(
      training_curves._smooth(np.array([1., 3., 8., 1.]), 2),
      [1., 2., 5.5, 4.5])
  np.testing.assert_allclose(
      training_curves._smooth(np.array([1., 3., 8.]), 1), [1., 3., 8.])
  assert training_curves._smooth(np.array([]), 1).size == 0
