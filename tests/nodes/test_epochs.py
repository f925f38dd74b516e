"""The learner rolls a run back to its last checkpoint."""

import time

import numpy as np

from lpg_distributed.nodes import meta_learner
from lpg_distributed.store import loggers
from tests.nodes import learner_testing
from tests.nodes.learner_testing import make_gradient
from tests.nodes.learner_testing import NUM_SHARDS
from tests.nodes.learner_testing import SIZE

_TIMEOUT_S = learner_testing.TIMEOUT_S


def test_a_restarted_worker_rolls_the_run_back_to_the_checkpoint(start):
  whole = start('whole', meta_steps=4)
  run = start('run', meta_steps=4, checkpoint_period_steps=2)
  for step in range(3):
    for each in (whole, run):
      each.put_step(step)
      each.wait_for(step + 1)
    if step == 1:
      run.save_parts(2)
  whole.put_step(3)
  whole.wait_for(4)
  # The epoch ends after half of a step's gradients have arrived.
  old = run.epoch
  run.put(make_gradient(3, 0), make_gradient(3, 1))
  update = run.learner.get_update(1, meta_learner.NO_EPOCH, 0, _TIMEOUT_S)
  assert update['epoch'] != old and update['restore_step'] == 2
  assert update['eta'] is None
  # A worker of the old epoch gets the new one at once.
  assert run.learner.get_update(0, old, 9, _TIMEOUT_S)['epoch'] == run.epoch
  wrong = make_gradient(2, 0, values=np.full(SIZE, 1e6))
  run.put(wrong._replace(epoch=old))
  # A second request of the same worker changes nothing.
  again = run.learner.get_update(1, meta_learner.NO_EPOCH, 0, _TIMEOUT_S)
  assert again['epoch'] == run.epoch == update['epoch']
  for step in (2, 3):
    run.put_step(step)
    run.wait_for(step + 1)
  np.testing.assert_array_equal(run.learner.get_eta()['eta'],
                                whole.learner.get_eta()['eta'])
  status = run.learner.get_status()
  assert status['rollbacks'] == 1
  # The last of the three may count as stale instead.
  assert (status['counters']['superseded']
          + status['counters']['stale']) == 3
  assert (status['counters']['env_steps']
          == whole.learner.get_status()['counters']['env_steps'])
  books = run.learner.get_books()
  assert books['applied'] == 5 * NUM_SHARDS
  assert books['inserted'] == books['received'] + books['waiting']
  assert books['received'] == sum(books[name] for name in (
      'applied', 'duplicates', 'stale', 'superseded', 'unapplied'))
  run.save_parts(4)  # The run ends as usual: each step is logged once.
  run.thread.join(_TIMEOUT_S)
  assert [row['step'] for row in loggers.read_metrics(run.run_dir, 'learner')
          ] == [0, 1, 2, 3]


def test_a_run_can_roll_back_until_its_last_checkpoint_is_complete(start):
  run = start(meta_steps=2)
  for step in range(2):
    run.put_step(step)
    run.wait_for(step + 1)
  while run.wait_for(2)['save_meta_step'] != 2:
    time.sleep(0.01)
  eta = run.learner.get_eta()['eta']
  update = run.learner.get_update(1, meta_learner.NO_EPOCH, 0, _TIMEOUT_S)
  assert update['restore_step'] == -1  # There is no checkpoint yet.
  for step in range(2):
    run.put_step(step)
    run.wait_for(step + 1)
  while run.wait_for(2)['save_meta_step'] != 2:
    time.sleep(0.01)
  run.save_parts(2)
  run.thread.join(_TIMEOUT_S)
  assert not run.thread.is_alive() and run.error is None
  np.testing.assert_array_equal(run.learner.get_eta()['eta'], eta)
  # The checkpoint is complete, so the run rolls back no more.
  assert run.learner.get_update(
      1, meta_learner.NO_EPOCH, 0, _TIMEOUT_S)['finished']
  assert run.learner.get_eta()['meta_step'] == 2


def test_a_restarted_bandit_is_restored(start):
  run = start()
  run.put_step(0)
  run.wait_for(1)
  run.bandit.epoch, run.bandit.meta_step = 0, 0
  deadline = time.monotonic() + _TIMEOUT_S
  while run.bandit.epoch != run.epoch:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  assert run.bandit.meta_step == 1
  # The bandit is also restored if it restarts within `end_step`.
  end_step, failures = run.bandit.end_step, [1]

  def lose_state(*args):
    if failures:
      failures.pop()
      run.bandit.epoch = 0
    return end_step(*args)

  run.bandit.end_step = lose_state
  run.put_step(1)
  run.wait_for(2)
  assert [step for step, _ in run.bandit.steps] == [0, 1]


def test_updates_list_the_missing_shards(start):
  run = start()
  run.put(make_gradient(0, 1), make_gradient(0, 3))
  while run.learner.get_status()['shards_arrived'] < 2:
    time.sleep(0.01)
  assert run.get_update(1, 0.)['missing'] == [0, 2]


def test_in_async_mode_a_restarted_worker_does_not_roll_the_run_back(start):
  run = start(mode='async', gradients_per_update=1, checkpoint_period_steps=1)
  run.put(make_gradient(0, 1))
  run.wait_for(1)
  run.save_parts(1)
  run.put(make_gradient(1, 1))
  run.wait_for(2)
  epoch = run.epoch
  update = run.learner.get_update(1, meta_learner.NO_EPOCH, 0, _TIMEOUT_S)
  assert update['epoch'] == epoch == run.epoch
  assert update['restore_step'] == 1
  assert run.learner.get_status()['meta_step'] == 2
  # A gradient that a broken connection has sent twice counts once.
  run.sequence -= 1
  run.put(make_gradient(2, 1))
  while not run.learner.get_status()['counters']['duplicates']:
    time.sleep(0.01)
  assert run.learner.get_status()['meta_step'] == 2
