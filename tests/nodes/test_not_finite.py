"""Numbers that are not finite are logged, and end the run if they persist."""

import json
import logging
import math
import os

import numpy as np
import pytest

from lpg_distributed import types
from lpg_distributed.nodes import not_finite
from lpg_distributed.store import checkpointing
from tests.nodes import learner_testing


def bad_gradient(meta_step, shard_id):
  gradient = learner_testing.make_gradient(meta_step, shard_id)
  return gradient._replace(metrics={
      **gradient.metrics, 'not_finite': [False, True],
      'hyper': not_finite.describe_hyper(types.LifetimeHyperparameters(
          np.array([0, 1]), np.array([20., 80.]), np.array([0.1, 0.5]),
          np.array([0.99, 0.995]), np.array([0., 0.02])))})


def test_cases_name_environment_and_hyperparameters():
  config = learner_testing.make_config()
  specs = {spec.shard_id: spec for spec in config.shards()}
  assert not not_finite.find_cases([learner_testing.make_gradient(3, 0)],
                                   specs)
  assert not_finite.find_cases([bad_gradient(3, 2)], specs) == [{
      'meta_step': 3, 'shard': 2, 'environment': 'chain_short', 'slot': 1,
      'learning_rate': 80., 'kl_cost': 0.5, 'gamma': 0.995, 'beta_0': 0.02}]


def run(tmp_path, limit, steps):
  rig = learner_testing.Run(learner_testing.make_config(
      not_finite_limit=limit, meta_steps=len(steps)), tmp_path).start()
  for step, bad in enumerate(steps):
    rig.put(*(bad_gradient(step, i) if bad and i == 1
              else learner_testing.make_gradient(step, i) for i in range(4)))
    rig.get_update(step + 1)
    if rig.learner._not_finite.exceeded:
      break
  update = rig.get_update(step + 1)
  rig.save_parts_when_asked(update['meta_step'])
  rig.thread.join(30)
  assert not rig.thread.is_alive()
  return rig


def test_too_many_cases_in_a_row_end_the_run_with_a_file(
    tmp_path, caplog):
  with caplog.at_level(logging.WARNING, 'absl'):
    rig = run(tmp_path, 2, [True, True, False, False])
  assert isinstance(rig.error, not_finite.TooManyNotFinite)
  assert 'in 2 meta-steps in a row' in str(rig.error)
  assert 'chain_short' in str(rig.error) and '\n' not in str(rig.error)
  assert ('learning_rate 80.0, kl_cost 0.5, gamma 0.995, beta_0 0.02'
          in caplog.text)
  file = tmp_path / 'inspection' / 'not_finite_00000002.json'
  assert [case['meta_step'] for case in json.loads(file.read_text())] == [0, 1]
  assert checkpointing.latest(str(tmp_path)).meta_step == 2
  assert os.path.exists(tmp_path / 'eta.npz')


def test_cases_that_are_not_in_a_row_do_not_end_the_run(tmp_path):
  rig = run(tmp_path, 2, [True, False, True, False])
  assert rig.error is None
  assert rig.learner.get_status()['meta_step'] == 4


def test_an_overflowing_sum_does_not_change_eta(tmp_path):
  rig = learner_testing.Run(learner_testing.make_config(), tmp_path).start()
  before = rig.learner.get_eta()['eta']
  rig.put(*(learner_testing.make_gradient(
      0, i, values=np.full(learner_testing.SIZE, 3e38)) for i in range(4)))
  update = rig.wait_for(1)
  np.testing.assert_array_equal(update['eta'], before)
  assert not math.isfinite(rig.learner.get_status()['row']['gradient_norm'])
  rig.finish()


@pytest.mark.parametrize('bad', [0, -1])
def test_the_limit_must_be_positive(bad):
  with pytest.raises(ValueError, match='run.not_finite_limit'):
    learner_testing.make_config(not_finite_limit=bad)
