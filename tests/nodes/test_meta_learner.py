"""The learner with an in-process queue and plain objects for the others."""

import json
import os
import threading
import time

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import eta_file
from lpg_distributed import types
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import checkpointing
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import loggers
from lpg_distributed.nodes import meta_learner

RULE = config_lib.RuleConfig(num_predictions=3, embedding_size=2, lstm_size=2)
SIZE = rule_vector.size(RULE)
NUM_SHARDS = 4
_TIMEOUT_S = 30.


def make_config(**run):
  fields = {'meta_steps': 3, 'num_workers': 2, 'lifetimes_per_shard': 2,
            'checkpoint_period_steps': 1000}
  return config_lib.Config(
      environments=('chain_short',), rule=RULE,
      meta=config_lib.MetaConfig(num_lifetimes=2 * NUM_SHARDS,
                                 learning_rate=0.01),
      run=config_lib.RunConfig(**{**fields, **run}))


class FakeBandit:
  """Notes what it is told, and what the learner had published then."""

  def __init__(self):
    self.learner = None
    self.steps, self.published, self.released = [], [], False

  def end_step(self, meta_step, reports):
    self.steps.append((meta_step, reports))
    self.published.append(self.learner.get_eta()['meta_step'])
    return True

  def get_state(self):
    return {'meta_step': len(self.steps), 'bandits': {}}

  def release(self):
    self.released = True


def make_gradient(meta_step, shard_id, ended=(), values=None):
  rng = np.random.default_rng([meta_step, shard_id])
  numbers = lambda x: [float(x)] * 2
  metrics = {
      'ended': [slot in ended for slot in range(2)],
      'reported': [slot in ended for slot in range(2)],
      'final_return': [shard_id + 0.25, shard_id + 0.5], 'arm': [shard_id, 8],
      'collapsed': [False, False], 'not_finite': [False, False],
      'gradient_not_finite': False, 'age': [1, 2],
      'window_return_sum': numbers(3.), 'window_episodes': numbers(2.)}
  metrics.update({name: numbers(0.5) for name in (
      'loss', 'policy_entropy', 'y_entropy', 'kl', 'pi_hat_square',
      'y_hat_square')})
  if values is None:
    # Of very different sizes, so that the order of a sum can be seen.
    values = rng.normal(size=SIZE) * 10. ** rng.integers(-6, 7, size=SIZE)
  return types.MetaGradient(meta_step, shard_id, np.float32(values), 2,
                            metrics)


class Run:
  """A learner at work in a thread of its own."""

  def __init__(self, config, run_dir, checkpoint=None, capacity=100):
    for name in ('metrics', 'checkpoints', 'eta'):
      os.makedirs(run_dir / name, exist_ok=True)
    self.run_dir = str(run_dir)
    self.config = config
    self.queue = gradient_queue.LocalGradientQueue(capacity)
    self.bandit = FakeBandit()
    self.stop = threading.Event()
    self.learner = meta_learner.MetaLearner(
        config, self.queue, self.bandit, self.run_dir, checkpoint, self.stop)
    self.bandit.learner = self.learner
    self.error = None
    self.thread = threading.Thread(target=self._run)

  def _run(self):
    try:
      self.learner.run()
    except Exception as error:  # pylint: disable=broad-except
      self.error = error

  def start(self):
    self.thread.start()
    return self

  def put(self, *gradients):
    for gradient in gradients:
      assert self.queue.put(gradient, 1.)

  def put_step(self, meta_step, order=range(NUM_SHARDS)):
    self.put(*(make_gradient(meta_step, i) for i in order))

  def wait_for(self, meta_step):
    update = self.learner.get_update(0, meta_step, _TIMEOUT_S)
    assert update is not None and update['meta_step'] == meta_step
    return update

  def drop_saved_parts(self):
    """Writes parts for the shards, as workers would."""
    step = self.learner.stop_training()
    for name in meta_learner.shard_parts(self.config):
      record = checkpointing.write_part(self.run_dir, step, name, b'shard')
      assert self.learner.record_part(
          step, record.name, record.sha256, record.size)

  def finish(self):
    if self.thread.is_alive():
      self.stop.set()
      self.drop_saved_parts()
    self.thread.join(_TIMEOUT_S)
    assert not self.thread.is_alive()
    return self


@pytest.fixture
def start(tmp_path):
  runs = []

  def make(name='run', checkpoint=None, **run):
    runs.append(Run(make_config(**run), tmp_path / name, checkpoint).start())
    return runs[-1]

  yield make
  for run in runs:
    run.finish()


# Synchronous.


def test_the_order_of_arrival_changes_no_bit(start):
  etas = []
  for name, order in (('a', [0, 1, 2, 3]), ('b', [3, 1, 0, 2])):
    run = start(name)
    for step in range(2):
      run.put_step(step, order)
      run.wait_for(step + 1)
    etas.append(run.learner.get_eta()['eta'])
  np.testing.assert_array_equal(*etas)
  # The numbers are such that another order would have been another sum.
  sums = [np.sum([make_gradient(0, i).gradient_sum for i in order], axis=0,
                 dtype=np.float32) for order in ([0, 1, 2, 3], [3, 1, 0, 2])]
  assert np.any(sums[0] != sums[1])


def test_moves_down_the_mean_over_lifetimes(start):
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


def test_duplicates_and_stale_ones_are_dropped_and_counted(start):
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


def test_the_bandit_hears_first_and_in_order(start):
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
  assert run.bandit.published == [0, 1]  # Workers saw the old eta yet.


def test_a_slow_step_names_who_is_missing(start):
  run = start(step_timeout_s=0.2)
  run.put(make_gradient(0, 0), make_gradient(0, 2))
  run.thread.join(_TIMEOUT_S)
  owners = sorted({str(run.learner._owner[i]) for i in (1, 3)})
  assert 'run.step_timeout_s = 0.2; still missing: shards 1, 3 of workers ' in (
      str(run.error))
  assert str(run.error).endswith(', '.join(owners))
  assert '\n' not in str(run.error) and run.bandit.released


def test_waits_for_no_longer_than_asked(start):
  run = start()
  begin = time.monotonic()
  assert run.learner.get_update(0, 1, 0.1) is None
  assert time.monotonic() - begin < 5.
  assert run.learner.get_update(0, 0, 0.)['meta_step'] == 0


def test_a_bandit_that_fails_leaves_a_whole_meta_step(start):
  """What a last checkpoint would hold is eta before the step, not half."""
  run = start()
  begin = run.learner.get_eta()['eta']

  def fail(meta_step, reports):
    raise RuntimeError('the bandit is away')

  run.bandit.end_step = fail
  run.put_step(0)
  run.thread.join(_TIMEOUT_S)
  assert 'away' in str(run.error)
  run.drop_saved_parts()
  checkpoint = checkpointing.latest(run.run_dir)
  assert checkpoint.meta_step == 0
  resumed = meta_learner.MetaLearner(
      run.config, run.queue, run.bandit, run.run_dir, checkpoint, run.stop)
  np.testing.assert_array_equal(resumed.get_eta()['eta'], begin)


# The end.


def test_finishes_with_a_whole_checkpoint(start):
  run = start(meta_steps=2)
  for step in range(2):
    run.put_step(step)
    run.learner.get_update(0, step + 1, _TIMEOUT_S)
  update = run.wait_for(2)
  deadline = time.monotonic() + _TIMEOUT_S
  while not update['finished']:
    assert time.monotonic() < deadline
    update = run.wait_for(2)
  run.drop_saved_parts()
  run.thread.join(_TIMEOUT_S)
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
  assert run.learner.stop_training() == 1 == run.learner.stop_training()
  run.put_step(1, [1, 2, 3])
  run.drop_saved_parts()
  run.thread.join(_TIMEOUT_S)
  assert not run.thread.is_alive() and run.error is None
  # Whoever waits for a step that will not come is told at once.
  update = run.learner.get_update(0, 2, _TIMEOUT_S)
  assert update['finished'] and update['meta_step'] == 1
  np.testing.assert_array_equal(update['eta'], eta)
  assert checkpointing.latest(run.run_dir).meta_step == 1


def test_resumes_to_the_same_eta(start):
  whole = start('whole', meta_steps=4)
  first = start('first', meta_steps=4)
  for step in range(4):
    whole.put_step(step)
    whole.wait_for(step + 1)
  for step in range(2):
    first.put_step(step)
    first.wait_for(step + 1)
  first.put(make_gradient(0, 0))  # A stale one, to be counted over.
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


def test_a_periodic_checkpoint_asks_for_its_parts_until_it_is_whole(start):
  run = start(checkpoint_period_steps=1, meta_steps=5)
  run.put_step(0)
  assert run.wait_for(1)['save_meta_step'] == 1
  run.put_step(1)
  assert run.wait_for(2)['save_meta_step'] == 1  # Not whole yet.
  for name in meta_learner.shard_parts(run.config):
    record = checkpointing.write_part(run.run_dir, 1, name, b'shard')
    assert not run.learner.record_part(
        2, record.name, record.sha256, record.size)
    assert run.learner.record_part(1, record.name, record.sha256, record.size)
  assert run.wait_for(2)['save_meta_step'] == -1
  assert checkpointing.latest(run.run_dir).meta_step == 1


# Asynchronous.


def test_async_updates_on_every_g_gradients_and_the_books_balance(start):
  """inserted = applied + dropped + still in the queue."""
  run = start(mode='async', gradients_per_update=3, max_staleness=1,
              meta_steps=3)
  inserted = []

  def put(meta_step, shard_id):
    inserted.append(shard_id)
    run.put(make_gradient(meta_step, shard_id, ended=(0,)))

  for shard_id in (2, 2, 2):  # Whatever their shard.
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


def test_async_takes_the_mean_of_what_it_has(start):
  run = start(mode='async', gradients_per_update=2)
  run.put(make_gradient(0, 1), make_gradient(0, 1))
  update = run.wait_for(1)
  state, _ = meta_update.apply(
      run.config.meta, meta_update.init(run.config),
      2 * make_gradient(0, 1).gradient_sum, 4)
  np.testing.assert_allclose(update['eta'], state.eta, rtol=1e-6)
