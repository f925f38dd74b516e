"""A worker among fake nodes, and whole embedded runs."""

import os
import threading
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import local_loop
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import lifetime_worker
from lpg_distributed.nodes import traced_programs
from lpg_distributed.store import checkpointing
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory

_TIMEOUT_S = 30.
_SIZE = rule_vector.size(config_lib.RuleConfig())
ENVIRONMENTS = ('chain_short', 'tabular_sparse')


def make_config(**run):
  fields = {'num_workers': 1, 'lifetimes_per_shard': 2, 'seed': 3}
  return config_lib.Config(
      environments=ENVIRONMENTS,
      meta=config_lib.MetaConfig(num_lifetimes=6),
      run=config_lib.RunConfig(**{**fields, **run}))


class Metrics(NamedTuple):
  arm: np.ndarray


def make_fake_shard(config, environment, num_lifetimes, platform):
  """A shard whose gradient is its arguments and whose state counts windows."""
  del config, environment, platform

  def advance(eta, arm_log_probs, state, shard_id, meta_step):
    arguments = [eta[0], arm_log_probs[0], shard_id.seed, shard_id.shard_id,
            shard_id.first_slot, shard_id.kind_lifetimes, meta_step,
            state['windows'][0]]
    gradient = jax.numpy.stack([jax.numpy.float32(x) for x in arguments])
    return gradient, {'windows': state['windows'] + 1}, Metrics(
        state['windows'])

  return lifetime.Shard(
      lambda: {'windows': np.zeros(num_lifetimes, np.int32)}, advance)


class FakeLearner:
  """A learner that stays at `meta_step` until the test changes it."""

  def __init__(self):
    self.changed = threading.Condition()
    self.meta_step, self.save_meta_step, self.finished = 0, -1, False
    self.epoch, self.restore_step, self.missing = 77, -1, []
    self.go_on = True
    self.parts, self.given_up, self.num_stops = [], [], 0

  def set(self, **fields):
    with self.changed:
      for name, value in fields.items():
        setattr(self, name, value)
      self.changed.notify_all()

  def get_update(self, worker_id, epoch, meta_step, timeout_s):
    assert worker_id == 0
    with self.changed:
      reached = self.changed.wait_for(
          lambda: self.finished or self.meta_step >= meta_step
          or self.epoch != epoch, min(timeout_s, 0.1))
      return {'meta_step': self.meta_step, 'finished': self.finished,
              'eta': np.full(_SIZE, 10. * self.meta_step, np.float32),
              'save_meta_step': self.save_meta_step, 'epoch': self.epoch,
              'restore_step': self.restore_step, 'missing': self.missing,
              'reached': reached, 'go_on': self.go_on}

  def give_up_checkpoint(self, meta_step, reason, epoch):
    self.given_up.append((meta_step, reason, epoch))

  def record_part(self, meta_step, name, sha256, size, epoch):
    assert epoch == self.epoch
    self.parts.append(
        (meta_step, checkpointing.PartRecord(name, sha256, size)))
    return True

  def stop_training(self):
    self.num_stops += 1
    return {'meta_step': self.meta_step, 'epoch': self.epoch}


class FakeBandit:
  """A bandit at the learner's step plus `offset`."""

  def __init__(self, learner):
    self.learner, self.offset, self.lost = learner, 0, False

  def get_log_probabilities(self, environment):
    return {'meta_step': self.learner.meta_step + self.offset,
            'epoch': 0 if self.lost else self.learner.epoch,
            'log_probabilities': [-1. - ENVIRONMENTS.index(environment)] * 9}


class Rig:
  """A worker in its own thread, with all shards or the given ones."""

  def __init__(self, run_dir, config, checkpoint=None, capacity=100,
               shards=None):
    self.run_dir, self.config = str(run_dir), config
    self.learner, self.stop = FakeLearner(), threading.Event()
    if checkpoint is not None:
      self.learner.set(meta_step=checkpoint.meta_step,
                       restore_step=checkpoint.meta_step)
    self.bandit = FakeBandit(self.learner)
    self.queue = gradient_queue.LocalGradientQueue(capacity)
    self.closed = threading.Event()
    self.error = None
    self.worker = lifetime_worker.LifetimeWorker(
        config, 0, config.shards() if shards is None else shards,
        self.learner, self.bandit, self.queue, self.run_dir, self.stop,
        self.closed.set)
    self.thread = threading.Thread(target=self._run)
    self.thread.start()

  def _run(self):
    try:
      self.worker.run()
    except Exception as error:  # pylint: disable=broad-except
      self.error = error

  def take(self, number):
    gradients = [self.queue.get(_TIMEOUT_S) for _ in range(number)]
    assert None not in gradients
    return gradients

  def join(self):
    self.thread.join(_TIMEOUT_S)
    assert not self.thread.is_alive()

  def saved(self, meta_step):
    """Commits the parts; returns the checkpoint, and (step, windows) each."""
    assert [s for s, _ in self.learner.parts] == [meta_step] * 4
    checkpoint = checkpointing.commit(
        self.run_dir, meta_step, [r for _, r in self.learner.parts], kept=3)
    result = []
    for spec in self.config.shards():
      like = {'step': 0, 'state': {
          'windows': np.zeros(spec.num_lifetimes, np.int32)}}
      tree = checkpointing.read_tree(
          checkpoint, checkpointing.shard_part_name(spec.shard_id), like)
      result.append((int(tree['step']), int(tree['state']['windows'][0])))
    return checkpoint, result


@pytest.fixture
def start(tmp_path, monkeypatch):
  monkeypatch.setattr(lifetime, 'make_shard', make_fake_shard)
  # Stored programs are found by configuration, so that a fake would match.
  monkeypatch.setattr(traced_programs, 'traced', lambda shard, *args: shard)
  monkeypatch.setattr(lifetime_worker, '_WAIT_S', 0.2)
  rigs = []

  def make(checkpoint=None, capacity=100, shards=None, **run):
    rigs.append(Rig(tmp_path, make_config(**run), checkpoint, capacity,
                    shards))
    return rigs[-1]

  yield make
  for rig in rigs:
    rig.stop.set()
    rig.join()


def test_one_gradient_per_shard_and_step(start):
  rig = start()
  specs = rig.config.shards()
  assert [spec.num_lifetimes for spec in specs] == [2, 1, 2, 1]
  for step in range(3):
    for spec, gradient in zip(specs, rig.take(4)):
      assert gradient[:2] == (step, spec.shard_id)
      assert gradient.num_lifetimes == spec.num_lifetimes
      assert gradient.metrics == {'arm': [step] * spec.num_lifetimes}
      np.testing.assert_array_equal(gradient.gradient_sum, [
          10. * step, -1. - ENVIRONMENTS.index(spec.environment), 3,
          spec.shard_id, spec.first_slot, spec.kind_lifetimes, step, step])
    assert rig.queue.get(0.2) is None  # It waits for the next eta.
    rig.learner.set(meta_step=step + 1)


def test_the_worker_saves_and_ends_with_the_learner(start):
  rig = start()
  rig.take(4)
  rig.learner.set(meta_step=1)
  rig.take(4)
  rig.learner.set(meta_step=2, go_on=False, save_meta_step=2)
  while len(rig.learner.parts) < 4:
    time.sleep(0.01)
  assert rig.queue.get(0.3) is None and rig.thread.is_alive()
  rig.learner.set(finished=True)
  rig.join()
  assert rig.error is None and rig.queue.get(0.) is None
  assert rig.saved(2)[1] == [(2, 2)] * 4


def test_a_requested_checkpoint_is_saved_once_and_training_continues(start):
  rig = start()
  rig.take(4)
  rig.learner.set(meta_step=1, save_meta_step=1)
  rig.take(4)
  rig.learner.set(meta_step=2)  # The checkpoint is still open.
  rig.take(4)
  checkpoint, saved = rig.saved(1)
  assert saved == [(1, 1)] * 4
  other = start(checkpoint)
  for gradient in other.take(4):
    assert gradient.meta_step == 1
    np.testing.assert_array_equal(gradient.gradient_sum[-2:], [1, 1])


def test_a_stop_within_a_step_saves_the_state_at_the_learners_step(start):
  """Two shards have done a window that the learner will never apply."""
  rig = start(capacity=1)
  deadline = time.monotonic() + _TIMEOUT_S
  while not rig.worker._slots or rig.worker._slots[1].step == 0:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  rig.stop.set()
  assert rig.closed.wait(_TIMEOUT_S)
  rig.join()
  assert [slot.step for slot in rig.worker._slots] == [1, 1, 0, 0]
  assert rig.saved(0)[1] == [(0, 0)] * 4
  assert rig.error is None


def test_a_full_queue_delays_the_worker_and_loses_nothing(start):
  rig = start(capacity=1)
  time.sleep(0.3)
  assert [g.shard_id for g in rig.take(4)] == [0, 1, 2, 3]


def test_the_worker_waits_for_a_bandit_at_the_learners_step(start):
  rig = start()
  rig.take(4)
  rig.bandit.offset = 1
  rig.learner.set(meta_step=1)
  assert rig.queue.get(0.5) is None
  rig.bandit.offset, rig.bandit.lost = 0, True  # Restarted, empty.
  assert rig.queue.get(0.5) is None
  rig.bandit.lost = False
  assert [g.meta_step for g in rig.take(4)] == [1] * 4


def test_a_new_epoch_reloads_the_shards(start):
  rig = start()
  rig.take(4)
  rig.learner.set(meta_step=1, save_meta_step=1)
  rig.take(4)
  rig.saved(1)
  rig.learner.set(meta_step=2, save_meta_step=-1)
  before = rig.take(4)
  assert {g.epoch for g in before} == {77}
  rig.learner.set(epoch=88, meta_step=1, restore_step=1)
  for step in (1, 2):
    again = rig.take(4)
    assert {g.epoch for g in again} == {88}
    assert [g.meta_step for g in again] == [step] * 4
    rig.learner.set(meta_step=step + 1)
  for old, new in zip(before, again):  # The same step gives the same.
    np.testing.assert_array_equal(old.gradient_sum, new.gradient_sum)
  rig.take(4)
  rig.learner.set(epoch=99, meta_step=0, restore_step=-1)  # Anew.
  np.testing.assert_array_equal(rig.take(4)[0].gradient_sum[-2:], [0, 0])


def test_lost_gradients_are_sent_again(start):
  rig = start()
  first = rig.take(4)
  rig.learner.set(missing=[1, 2])
  again = rig.take(2)
  assert [g.shard_id for g in again] == [1, 2]
  np.testing.assert_array_equal(again[0].gradient_sum, first[1].gradient_sum)
  rig.learner.set(missing=[], meta_step=1)
  sequence = [g.sequence for g in (*first, *again, *rig.take(4))]
  assert sequence[:6] == list(range(6)) and sequence == sorted(set(sequence))


def test_a_full_disk_gives_up_only_the_checkpoint(
    start, monkeypatch):
  def fail(*args):
    raise OSError(28, 'No space left on device')

  rig = start()
  rig.take(4)
  monkeypatch.setattr(checkpointing, 'write_part', fail)
  rig.learner.set(meta_step=1, save_meta_step=1)
  rig.take(4)
  assert not rig.learner.parts
  assert rig.learner.given_up == [(1, '[Errno 28] No space left on device',
                                   77)]
  rig.learner.set(save_meta_step=-1)


def test_a_step_other_than_the_learners_is_an_error(start):
  rig = start()
  rig.take(4)
  rig.learner.set(meta_step=2)
  rig.join()
  assert 'is at window 1, the learner at 2' in str(rig.error)


def test_async_mode_does_not_wait(start):
  rig = start(mode='async', capacity=4)
  rig.bandit.offset = 7  # Ignored in async mode.
  windows = [g.gradient_sum[-2] for g in rig.take(12)]
  assert windows == [0] * 4 + [1] * 4 + [2] * 4
  rig.learner.set(meta_step=9)
  steps = [g.meta_step for g in rig.take(24)]
  assert steps[-1] == 9 and steps == sorted(steps)
  rig.learner.set(save_meta_step=9)
  while len(rig.learner.parts) < 4:
    rig.queue.get(0.05)
  rig.learner.set(finished=True)
  while rig.thread.is_alive():
    rig.queue.get(0.05)
  saved = rig.saved(9)[1]
  assert all(step == windows > 3 for step, windows in saved)


def test_a_worker_without_shards_ends_at_once(start):
  rig = start(shards=())
  rig.join()
  assert rig.error is None and rig.learner.num_stops == 0


# Embedded, with everything real but the evaluator.


SMALL = config_lib.Config(
    environments=('chain_short',),
    agents={'chain_short': config_lib.AgentConfig(
        lifetime_env_steps=2 * 2 * 2 * 3)},
    rule=config_lib.RuleConfig(num_predictions=4, embedding_size=3,
                               lstm_size=3),
    meta=config_lib.MetaConfig(num_lifetimes=6, num_envs=2, num_updates=2,
                               trajectory_steps=3, learning_rate=0.01),
    evaluator=config_lib.EvaluatorConfig(enabled=False),
    run=config_lib.RunConfig(meta_steps=8, num_workers=2,
                             lifetimes_per_shard=3,
                             checkpoint_period_steps=3))


@pytest.fixture(scope='module')
def embedded():
  """Runs `SMALL`; the workers of all runs share one compiled function."""
  make = lifetime_worker.LifetimeWorker._make_shard
  cache, lock = {}, threading.Lock()

  def make_once(self, *key):
    with lock:  # Both workers begin at once.
      if key not in cache:
        cache[key] = make(self, *key)
      return cache[key]

  def run(run_dir, stop_at=None):
    directory = run_directory.RunDirectory.open(str(run_dir), SMALL)
    stop = threading.Event()

    def watch(status):
      if stop_at is not None and status['meta_step'] >= stop_at:
        stop.set()

    result = local_loop.run(
        SMALL, directory.path, checkpointing.latest(directory.path), stop,
        watch)
    directory.close()
    return result

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(lifetime_worker.LifetimeWorker, '_make_shard', make_once)
    patch.setattr(local_loop, '_WATCH_PERIOD_S', 0.002)
    yield run


def test_eta_is_the_same_after_stops_and_resumes(embedded, tmp_path):
  whole = embedded(tmp_path / 'whole')
  assert whole['meta_step'] == 8
  stops = []
  while not stops or stops[-1] < 8:
    assert len(stops) < 20
    status = embedded(tmp_path / 'parts',
                      stop_at=(stops[-1] if stops else 0) + 1)
    stops.append(status['meta_step'])
    assert status['last_checkpoint'] == status['meta_step']
  assert len(stops) > 2, stops
  np.testing.assert_array_equal(status['eta'], whole['eta'])
  assert status['counters']['env_steps'] == whole['counters']['env_steps']
  assert status['counters']['resets'] == whole['counters']['resets']
  ended = [[row['lifetimes_ended'] for row in loggers.read_metrics(
      os.fspath(tmp_path / name), 'learner')] for name in ('whole', 'parts')]
  assert ended[0] == ended[1] and len(ended[0]) == 8 and sum(ended[0]) > 6
  load = lambda name: checkpointing.load_json(
      checkpointing.latest(os.fspath(tmp_path / name)), 'bandit')
  assert load('whole') == load('parts')
