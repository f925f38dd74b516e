"""Rows of a meta-step and returns for the bandit, computed by hand."""

import json
import math

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import lifetime
from lpg_distributed.nodes import step_metrics

SPECS = {
    0: config_lib.ShardSpec(0, 'chain_short', 2, 0, 4),
    1: config_lib.ShardSpec(1, 'chain_short', 2, 2, 4),
    2: config_lib.ShardSpec(2, 'random_small', 1, 0, 1),
}


def make_gradient(shard_id, **changes):
  number = SPECS[shard_id].num_lifetimes
  metrics = {
      'policy_entropy': [0.5] * number, 'y_entropy': [3.] * number,
      'kl': [0.] * number, 'pi_hat_square': [1.] * number,
      'y_hat_square': [2.] * number, 'loss': [-1.] * number,
      'ended': [False] * number, 'age': [3] * number,
      'reported': [False] * number, 'final_return': [0.] * number,
      'arm': list(range(number)), 'collapsed': [False] * number,
      'not_finite': [False] * number, 'window_return_sum': [0.] * number,
      'window_episodes': [0] * number, 'gradient_not_finite': 0}
  assert set(changes) <= set(metrics)
  return types.MetaGradient(9, shard_id, np.zeros(3, np.float32), number,
                            {**metrics, **changes})


def test_fields_are_those_of_the_shards():
  assert set(make_gradient(0).metrics) == set(lifetime.ShardMetrics._fields)


def test_metrics_are_encoded_as_plain_json():
  names = lifetime.ShardMetrics._fields
  metrics = lifetime.ShardMetrics(**{
      name: np.array([True, False]) if name == 'reported' else
      np.float32(2.) if name == 'gradient_not_finite' else
      np.arange(2, dtype=np.float32) for name in names})
  encoded = step_metrics.encode(metrics)
  assert list(encoded) == list(names)
  assert json.loads(json.dumps(encoded)) == encoded
  assert encoded['reported'] == [True, False]
  assert type(encoded['reported'][0]) is bool
  assert encoded['arm'] == [0., 1.] and encoded['gradient_not_finite'] == 2.


def test_final_returns_are_those_reported_in_the_order_of_slots():
  gradient = make_gradient(1, reported=[True, True], final_return=[1.5, -2.],
                           arm=[4, 0])
  assert step_metrics.final_returns(gradient, SPECS[1]) == [
      types.FinalReturn(9, 1, 0, 'chain_short', 4, 1.5),
      types.FinalReturn(9, 1, 1, 'chain_short', 0, -2.)]
  gradient = make_gradient(1, reported=[False, True], final_return=[math.nan,
                                                                     3.])
  assert step_metrics.final_returns(gradient, SPECS[1]) == [
      types.FinalReturn(9, 1, 1, 'chain_short', 1, 3.)]


def test_means_by_environment():
  row = step_metrics.summarise([
      make_gradient(0, policy_entropy=[0.1, 0.2], kl=[1., math.nan]),
      make_gradient(1, policy_entropy=[0.3, 0.6], kl=[math.inf, 2.]),
      make_gradient(2, policy_entropy=[0.9])], SPECS)
  assert row['entropy/chain_short'] == pytest.approx(0.3)
  assert row['entropy/random_small'] == pytest.approx(0.9)
  assert row['kl/chain_short'] == pytest.approx(1.5)  # Finite ones.
  for name, value in (('y_entropy', 3.), ('pi_hat_square', 1.),
                      ('y_hat_square', 2.), ('loss', -1.)):
    assert row[f'{name}/chain_short'] == value
    assert row[f'{name}/random_small'] == value


def test_the_return_is_the_mean_over_complete_lifetimes():
  """Lifetimes that a reset cut short do not count."""
  row = step_metrics.summarise([
      make_gradient(0, reported=[True, True], final_return=[1., 50.],
                    collapsed=[False, True]),
      make_gradient(1, reported=[True, False], final_return=[3., 70.]),
      make_gradient(2, reported=[True], final_return=[9.],
                    not_finite=[True])], SPECS)
  assert row['return/chain_short'] == 2.
  assert 'return/random_small' not in row


def test_episode_returns_are_weighted_by_the_number_of_episodes():
  row = step_metrics.summarise([
      make_gradient(0, window_return_sum=[6., 0.], window_episodes=[3, 0]),
      make_gradient(1, window_return_sum=[-2., 1.], window_episodes=[1, 1]),
      make_gradient(2)], SPECS)
  assert row['episode_return/chain_short'] == 1.
  assert 'episode_return/random_small' not in row


def test_means_of_no_values_are_left_out():
  row = step_metrics.summarise([make_gradient(2, loss=[math.nan])], SPECS)
  assert 'loss/random_small' not in row
  assert not any(name.endswith('chain_short') for name in row)
  assert all(math.isfinite(value) for value in row.values())


def test_resets_are_counted():
  assert step_metrics.count_resets([
      make_gradient(0, collapsed=[True, False], not_finite=[False, True]),
      make_gradient(1, collapsed=[True, True], gradient_not_finite=2),
      make_gradient(2, not_finite=[True], gradient_not_finite=1)]) == {
          'collapsed': 3, 'not_finite': 2, 'gradients_not_finite': 3}
