"""Curves of the evaluator, alone and in the figure of its run."""

import contextlib
import os

from matplotlib import figure as figure_lib
import numpy as np
import pytest

from lpg_distributed.analysis import evaluator_curves
from lpg_distributed.analysis import training_curves
from lpg_distributed.store import loggers
from tests.analysis import run_testing


@pytest.fixture
def run_dir(tmp_path):
  os.makedirs(tmp_path / 'figures')
  logger = loggers.MetricsLogger(str(tmp_path), 'evaluator',
                                 tensorboard=False)
  for step, event, game, frames, value in [
      (0, 'progress', 'pong', 10, None), (0, 'progress', 'pong', 20, -21.),
      (0, 'end', 'pong', 30, -20.), (0, 'end', 'boxing', 30, 1.),
      (40, 'progress', 'pong', 10, -19.),
      # Killed, and resumed from an earlier save.
      (40, 'progress', 'pong', 20, -5.), (40, 'progress', 'pong', 20, -18.)]:
    logger.write(step, {'event': event, 'game': game, 'frames': frames,
                        'return': value})
  logger.write(-1, {'event': 'error', 'game': '', 'error': 'no eta'})
  logger.close()
  return str(tmp_path)


def test_curves_are_read_by_game_and_meta_step(run_dir):
  boxing, first, second = evaluator_curves.read(run_dir)
  assert (boxing.game, boxing.meta_step, boxing.done) == ('boxing', 0, True)
  assert (first.game, first.meta_step, first.done) == ('pong', 0, True)
  np.testing.assert_array_equal(first.frames, [20, 30])
  np.testing.assert_array_equal(first.returns, [-21., -20.])
  assert second.meta_step == 40 and not second.done
  np.testing.assert_array_equal(second.returns, [-19., -18.])


def test_final_returns_are_drawn_over_meta_steps(run_dir):
  axes = figure_lib.Figure().subplots()
  evaluator_curves.draw_final(axes, 'pong', evaluator_curves.read(run_dir))
  line = axes.lines[0]
  np.testing.assert_array_equal(line.get_xdata(), [0])  # 40 runs.
  np.testing.assert_array_equal(line.get_ydata(), [-20.])
  assert axes.get_title() == 'Atari: pong'


def test_the_figure_of_a_run_has_finished_evaluations_only(
    tmp_path, monkeypatch):
  run_dir = run_testing.store(tmp_path / 'run')
  drawn = []
  draw_final = evaluator_curves.draw_final

  def spy(axes, game, curves):
    drawn.append(game)
    draw_final(axes, game, curves)

  monkeypatch.setattr(evaluator_curves, 'draw_final', spy)
  with contextlib.closing(loggers.MetricsLogger(
      run_dir, 'evaluator', tensorboard=False)) as logger:
    for game, events in (('pong', ('progress',)),
                         ('boxing', ('progress', 'end'))):
      for event in events:
        logger.write(0, {'event': event, 'game': game, 'frames': 10,
                         'return': 1.})
  training_curves.draw(run_dir)
  assert drawn == ['boxing']
