"""Which gradients become part of a meta-step."""

import numpy as np
import pytest

from lpg_distributed import types
from lpg_distributed.nodes import gradient_collector
from lpg_distributed.nodes import gradient_queue
from tests.nodes import learner_testing

STEP, EPOCH = 3, 7


def make_gradient(shard_id, epoch=EPOCH, meta_step=STEP, sequence=0):
  return types.MetaGradient(meta_step, shard_id, np.zeros(2, np.float32), 2, {},
                            epoch, shard_id, sequence)


def collect(gradients, **run):
  """Returns the gradients that the collector takes, and its counts."""
  queue = gradient_queue.LocalGradientQueue(len(gradients))
  for gradient in gradients:
    assert queue.put(gradient, 1.)
  config = learner_testing.make_config(**run)
  collector = gradient_collector.GradientCollector(
      config, queue, dict.fromkeys(range(learner_testing.NUM_SHARDS), 0))
  return collector.collect(STEP, EPOCH, lambda: True), collector.counts


@pytest.mark.parametrize('mode', ['sync', 'async'])
def test_gradients_of_other_epochs_are_dropped(mode):
  """Even those of the right meta-step and of a shard that is missing."""
  good = [make_gradient(i) for i in range(learner_testing.NUM_SHARDS)]
  taken, counts = collect([make_gradient(0, epoch=EPOCH - 1), *good[1:],
                           make_gradient(2, epoch=EPOCH + 1), good[0]],
                          mode=mode)
  assert {(g.shard_id, g.epoch) for g in taken} == {
      (i, EPOCH) for i in range(learner_testing.NUM_SHARDS)}
  assert (counts['superseded'], counts['received']) == (
      2, learner_testing.NUM_SHARDS + 2)


def test_gradients_are_returned_in_the_order_of_shards():
  gradients = [make_gradient(i) for i in (2, 0, 3, 1)]
  taken, _ = collect(gradients)
  assert [g.shard_id for g in taken] == [0, 1, 2, 3]


@pytest.mark.parametrize('age, dropped', [(1, False), (2, True)])
def test_staleness_is_bounded(age, dropped):
  others = [make_gradient(i) for i in range(1, learner_testing.NUM_SHARDS)]
  taken, counts = collect(
      [make_gradient(0, meta_step=STEP - age), *others,
       make_gradient(0, sequence=1)], mode='async', max_staleness=1)
  assert counts['stale'] == dropped
  assert (taken[0].meta_step == STEP) is dropped
