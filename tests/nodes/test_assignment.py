"""Each shard has one worker, and workers have about equal loads."""

import threading

import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import lifetime_worker


def make_config(*overrides, preset='paper'):
  return config_io.apply_overrides(presets.load(preset), overrides)


def loads_and_largest_cost(config):
  """The cost of each worker's shards, and of the most expensive shard."""
  def cost(spec):
    return spec.num_lifetimes * config.relative_cost(spec.environment)
  return ([sum(map(cost, specs)) for specs in assignment.assign(config)],
          max(map(cost, config.shards())))


@pytest.mark.parametrize('workers', [1, 2, 3, 7, 60, 500])
@pytest.mark.parametrize('preset', presets.PRESETS)
def test_every_shard_is_owned_once(preset, workers):
  config = make_config(f'run.num_workers={workers}', preset=preset)
  owned = assignment.assign(config)
  assert len(owned) == workers
  for specs in owned:
    assert [s.shard_id for s in specs] == sorted(s.shard_id for s in specs)
  together = sorted(sum(owned, []), key=lambda s: s.shard_id)
  assert together == list(config.shards())


@pytest.mark.parametrize('workers', [2, 3, 7, 20, 60])
@pytest.mark.parametrize('per_shard', [1, 4, 16])
def test_loads_differ_by_at_most_the_most_expensive_shard(workers, per_shard):
  loads, largest = loads_and_largest_cost(make_config(
      f'run.num_workers={workers}', f'run.lifetimes_per_shard={per_shard}'))
  assert max(loads) - min(loads) <= largest


def test_loads_are_balanced_by_cost_and_not_by_count():
  """One network with convolutions outweighs many tables."""
  config = make_config(
      'environments=random_very_dense,chain_short', 'shares=1,1000',
      'meta.num_lifetimes=9', 'run.lifetimes_per_shard=1',
      'run.num_workers=2')
  assert sorted(map(len, assignment.assign(config))) == [1, 8]


def test_workers_beyond_the_number_of_shards_have_none():
  config = make_config('run.num_workers=5', preset='demo')
  owned = assignment.assign(config)
  assert sorted(map(len, owned)) == [0, 0, 0, 1, 1]


def test_the_learners_load_is_proportional_to_its_speed():
  config = make_config('run.num_workers=2', 'run.learner_speed=6',
                       'environments=chain_short', 'meta.num_lifetimes=16',
                       'run.lifetimes_per_shard=1', preset='demo')
  assert assignment.learner_worker(config) == 2
  assert list(map(len, assignment.assign(config))) == [2, 2, 12]
  whole = make_config('run.num_workers=0', 'run.learner_speed=1')
  assert assignment.assign(whole) == [list(whole.shards())]
  assert assignment.learner_worker(make_config()) is None


def test_learner_speed_must_be_positive_without_workers():
  with pytest.raises(config_lib.ConfigError, match='run.learner_speed is over'):
    make_config('run.num_workers=0')
  with pytest.raises(config_lib.ConfigError, match='run.learner_speed is -1'):
    make_config('run.learner_speed=-1')


def test_the_assignment_may_change_on_resume():
  assert config_io.difference(make_config(), make_config(
      'run.num_workers=3', 'run.learner_speed=2')) == []


class _Unused:
  """A node whose use is an error."""

  def __getattr__(self, name):
    raise AssertionError(f'{name} was used')


def test_a_worker_without_shards_calls_no_other_node(tmp_path):
  """When it returns, it does not end the training of other workers."""
  worker = lifetime_worker.LifetimeWorker(
      make_config(preset='demo'), 2, [], _Unused(), _Unused(), _Unused(),
      str(tmp_path), None, threading.Event())
  worker.run()
