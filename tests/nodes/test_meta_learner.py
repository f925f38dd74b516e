"""The learner with an in-process queue, among fake nodes."""

import dataclasses
import json
import os
import time

import jax
import numpy as np

from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import meta_learner
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import loggers
from tests.nodes import learner_testing
from tests.nodes.learner_testing import make_gradient
from tests.nodes.learner_testing import NUM_SHARDS
from tests.nodes.learner_testing import SIZE

_TIMEOUT_S = learner_testing.TIMEOUT_S


# Synchronous.


def test_order_of_arrival_does_not_change_eta(start):
  etas = []
  for name, order in (('a', [0, 1, 2, 3]), ('b', [3, 1, 0, 2])):
    run = start(name)
    for step in range(2):
      run.put_step(step, order)
      run.wait_for(step + 1)
    etas.append(run.learner.get_eta()['eta'])
  np.testing.assert_array_equal(*etas)
  # With these numbers, another order gives another sum.
  sums = [np.sum([make_gradient(0, i).gradient_sum for i in order], axis=0,
                 dtype=np.float32) for order in ([0, 1, 2, 3], [3, 1, 0, 2])]
  assert np.any(sums[0] != sums[1])


def test_eta_descends_the_mean_gradient_over_lifetimes(start):
  run = start()
  run.put_step(0)
  update = run.wait_for(1)
  total = np.zeros(SIZE, np.float32)
  for shard_id in range(NUM_SHARDS):
    total += make_gradient(0, shard_id).gradient_sum
  state, norm = meta_update.apply(
      run.config.meta, meta_update.init(run.config), total, 2 * NUM_SHARDS)
  np.testing.assert_allclose(update['eta'], state.eta, rtol=1e-6)
  row = run.learner.get_status()['row']
  np.testing.assert_allclose(row['gradient_norm'], norm, rtol=1e-5)
  assert row['env_steps'] == 2 * NUM_SHARDS * run.config.meta.window_env_steps


def test_duplicate_and_stale_gradients_are_dropped_and_counted(start):
  clean = start('clean')
  clean.put_step(0)
  clean.put_step(1)
  clean.wait_for(2)
  run = start('run')
  wrong = np.full(SIZE, 1e6)
  run.put(make_gradient(0, 1), make_gradient(0, 1, values=wrong),
          make_gradient(0, 1, values=wrong))
  run.put(*(make_gradient(0, i) for i in (0, 2, 3)))
  run.wait_for(1)
  run.put(make_gradient(0, 2, values=wrong), make_gradient(0, 2),
          make_gradient(5, 3), make_gradient(0, 0))
  run.put_step(1)
  run.wait_for(2)
  np.testing.assert_array_equal(run.learner.get_eta()['eta'],
                                clean.learner.get_eta()['eta'])
  counters = run.learner.get_status()['counters']
  assert (counters['duplicates'], counters['stale']) == (2, 4)
  counters = clean.learner.get_status()['counters']
  assert (counters['duplicates'], counters['stale']) == (0, 0)


def test_the_bandit_is_updated_before_the_workers(start):
  run = start()
  run.put(make_gradient(0, 3, ended=(1,)), make_gradient(0, 1, ended=(0, 1)),
          make_gradient(0, 0), make_gradient(0, 2, ended=(0,)))
  run.wait_for(1)
  run.put_step(1)
  run.wait_for(2)
  assert run.bandit.steps == [
      (0, [[0, 1, 0, 'chain_short', 1, 1.25], [0, 1, 1, 'chain_short', 8, 1.5],
           [0, 2, 0, 'chain_short', 2, 2.25],
           [0, 3, 1, 'chain_short', 8, 3.5]]),
      (1, [])]
  assert run.bandit.published == [0, 1]  # Workers still had the old eta.


def test_a_step_that_times_out_names_the_missing_shards(start):
  run = start(step_timeout_s=0.2)
  run.put(make_gradient(0, 0), make_gradient(0, 2))
  run.thread.join(_TIMEOUT_S)
  owners = sorted({str(run.learner._collector._owner[i]) for i in (1, 3)})
  assert 'run.step_timeout_s = 0.2; still missing: shards 1, 3 of workers ' in (
      str(run.error))
  assert str(run.error).endswith(', '.join(owners))
  assert '\n' not in str(run.error) and run.bandit.released


def test_get_update_returns_after_its_timeout(start):
  run = start()
  begin = time.monotonic()
  assert not run.get_update(1, 0.1)['reached']
  assert time.monotonic() - begin < 5.
  assert run.get_update(0, 0.)['reached']


def test_a_failing_bandit_leaves_eta_before_the_step(start):
  """A checkpoint then has the eta and the bandit from before the step."""
  run = start()
  begin = run.learner.get_eta()['eta']

  def fail(meta_step, reports, epoch):
    raise RuntimeError('the bandit is away')

  run.bandit.end_step = fail
  run.put_step(0)
  run.thread.join(_TIMEOUT_S)
  assert 'away' in str(run.error)
  run.save_last_parts()
  checkpoint = checkpointing.latest(run.run_dir)
  assert checkpoint.meta_step == 0
  resumed = meta_learner.MetaLearner(
      run.config, run.queue, run.bandit, run.run_dir, checkpoint, run.stop)
  np.testing.assert_array_equal(resumed.get_eta()['eta'], begin)


# The end of a run.


def test_a_run_ends_with_a_complete_checkpoint(start):
  run = start(meta_steps=2)
  for step in range(2):
    run.put_step(step)
    update = run.wait_for(step + 1)
  # The workers stay until the last checkpoint is complete.
  assert not update['go_on'] and not update['finished']
  while run.wait_for(2)['save_meta_step'] != 2:
    time.sleep(0.01)
  run.save_parts(2)
  run.thread.join(_TIMEOUT_S)
  assert run.wait_for(2)['finished']
  assert not run.thread.is_alive() and run.error is None
  checkpoint = checkpointing.latest(run.run_dir)
  assert checkpoint.meta_step == 2
  assert {p.name for p in checkpoint.parts} == {
      'learner', 'bandit', *meta_learner.shard_parts(run.config)}
  file = eta_file.load(os.path.join(run.run_dir, 'eta.npz'))
  np.testing.assert_array_equal(file.eta, update['eta'])
  assert file.info['meta_step'] == 2 and run.bandit.released
  rows = list(loggers.read_metrics(run.run_dir, 'learner'))
  assert [row['step'] for row in rows] == [0, 1]
  assert rows[0]['episode_return/chain_short'] == 1.5


def test_a_stop_freezes_eta(start):
  run = start()
  run.put_step(0)
  eta = run.wait_for(1)['eta']
  run.put(make_gradient(1, 0))
  run.stop.set()
  halt = {'meta_step': 1, 'epoch': run.epoch}
  assert run.learner.stop_training() == halt == run.learner.stop_training()
  run.put_step(1, [1, 2, 3])
  run.save_last_parts()
  run.thread.join(_TIMEOUT_S)
  assert not run.thread.is_alive() and run.error is None
  # A request for a step that will not come is answered at once.
  update = run.get_update(2)
  assert update['finished'] and update['meta_step'] == 1
  np.testing.assert_array_equal(update['eta'], eta)
  assert checkpointing.latest(run.run_dir).meta_step == 1


def test_a_resumed_run_gives_the_same_eta(start):
  whole = start('whole', meta_steps=4)
  first = start('first', meta_steps=4)
  for step in range(4):
    whole.put_step(step)
    whole.wait_for(step + 1)
  for step in range(2):
    first.put_step(step)
    first.wait_for(step + 1)
  first.put(make_gradient(0, 0))  # Stale; its count survives.
  while not first.learner.get_status()['counters']['stale']:
    time.sleep(0.01)
  first.finish()
  checkpoint = checkpointing.latest(first.run_dir)
  assert json.loads(checkpointing.read_part(checkpoint, 'bandit'))[
      'meta_step'] == 2
  second = start('first', checkpoint, meta_steps=4)
  status = second.learner.get_status()
  assert status['meta_step'] == 2 and status['last_checkpoint'] == 2
  for step in range(2, 4):
    second.put_step(step)
    second.wait_for(step + 1)
  np.testing.assert_array_equal(second.learner.get_eta()['eta'],
                                whole.learner.get_eta()['eta'])
  counters = second.learner.get_status()['counters']
  assert counters['stale'] == 1
  assert counters['env_steps'] == whole.learner.get_status()[
      'counters']['env_steps']


def test_initial_rule_sets_eta(start, tmp_path):
  path = str(tmp_path / 'rule.npz')
  eta = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
  eta_file.save(path, eta, learner_testing.RULE)
  first = start('first', initial_rule=path)
  np.testing.assert_array_equal(first.learner.get_eta()['eta'], eta)
  first.put_step(0)
  total = np.sum([make_gradient(0, i).gradient_sum
                  for i in range(NUM_SHARDS)], axis=0, dtype=np.float32)
  moved, _ = meta_update.apply(
      first.config.meta, meta_update.begin(first.config.meta, eta), total,
      2 * NUM_SHARDS)
  np.testing.assert_allclose(first.wait_for(1)['eta'], moved.eta, rtol=1e-6)
  first.finish()
  os.remove(path)  # A resumed run does not read it.
  second = start('first', checkpointing.latest(first.run_dir),
                 initial_rule=path)
  np.testing.assert_array_equal(second.learner.get_eta()['eta'],
                                first.learner.get_eta()['eta'])
  second.put_step(1)
  second.wait_for(2)


def test_a_rule_that_sees_the_policy_can_begin_with_a_rule_that_does_not(
    start, tmp_path):
  path = str(tmp_path / 'blind.npz')
  eta = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
  blind = dataclasses.replace(learner_testing.RULE, sees_policy=False)
  eta_file.save(path, eta, blind)
  begun = start('first', initial_rule=path).learner.get_eta()['eta']
  changed = np.flatnonzero(begun != eta)
  # A row of the LSTM's weights, which has four gates.
  assert len(changed) == 4 * learner_testing.RULE.lstm_size
  np.testing.assert_array_equal(begun[changed], 0.)
  for mine, other in zip(
      jax.tree_util.tree_leaves(rule_vector.unravel(learner_testing.RULE,
                                                    begun)),
      jax.tree_util.tree_leaves(rule_vector.unravel(blind, eta))):
    np.testing.assert_array_equal(mine, other)


def test_a_periodic_checkpoint_requests_its_parts_until_it_is_complete(start):
  run = start(checkpoint_period_steps=1, meta_steps=5)
  run.put_step(0)
  assert run.wait_for(1)['save_meta_step'] == 1
  run.put_step(1)
  assert run.wait_for(2)['save_meta_step'] == 1  # Not complete.
  for name in meta_learner.shard_parts(run.config):
    record = checkpointing.write_part(run.run_dir, 1, name, b'shard')
    about = record.name, record.sha256, record.size
    assert not run.learner.record_part(2, *about, run.epoch)
    assert not run.learner.record_part(1, *about, run.epoch + 1)
    assert run.learner.record_part(1, *about, run.epoch)
  assert run.wait_for(2)['save_meta_step'] == -1
  assert checkpointing.latest(run.run_dir).meta_step == 1


# Asynchronous.


def test_async_mode_updates_on_every_g_gradients_and_counts_all(start):
  """inserted = applied + dropped + still in the queue."""
  run = start(mode='async', gradients_per_update=3, max_staleness=1,
              meta_steps=3)
  inserted = []

  def put(meta_step, shard_id):
    inserted.append(shard_id)
    run.put(make_gradient(meta_step, shard_id, ended=(0,)))

  for shard_id in (2, 2, 2):  # Of any shard.
    put(0, shard_id)
  run.wait_for(1)
  for meta_step, shard_id in ((1, 0), (0, 1), (1, 3)):  # One step old: fine.
    put(meta_step, shard_id)
  run.wait_for(2)
  np.testing.assert_allclose(run.learner.get_status()['row']['staleness'],
                             1 / 3)
  for meta_step in (0, 0, 1, 2, 0, 2, 2, 2):  # Two steps old: dropped.
    put(meta_step, 0)
  run.wait_for(3)
  run.finish()
  left = 0
  while run.queue.get(0.) is not None:
    left += 1
  counters = run.learner.get_status()['counters']
  steps_each = 2 * run.config.meta.window_env_steps
  applied = counters['env_steps'] // steps_each
  assert counters['env_steps'] == applied * steps_each
  assert (applied, counters['stale'], left) == (9, 3, 2)
  assert counters['duplicates'] == 0
  assert len(inserted) == applied + counters['stale'] + left
  assert [len(reports) for _, reports in run.bandit.steps] == [3, 3, 3]
  assert [step for step, _ in run.bandit.steps] == [0, 1, 2]


def test_async_applies_the_mean_over_arrived_lifetimes(start):
  run = start(mode='async', gradients_per_update=2)
  run.put(make_gradient(0, 1), make_gradient(0, 1))
  update = run.wait_for(1)
  state, _ = meta_update.apply(
      run.config.meta, meta_update.init(run.config),
      2 * make_gradient(0, 1).gradient_sum, 4)
  np.testing.assert_allclose(update['eta'], state.eta, rtol=1e-6)
