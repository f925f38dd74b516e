"""A learner in a thread, with an in-process queue and a fake bandit."""

import os
import threading
import time

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import meta_learner
from lpg_distributed.store import checkpointing

RULE = config_lib.RuleConfig(num_predictions=3, embedding_size=2, lstm_size=2)
SIZE = rule_vector.size(RULE)
NUM_SHARDS = 4
TIMEOUT_S = 30.


def make_config(**run):
  fields = {'meta_steps': 3, 'num_workers': 2, 'lifetimes_per_shard': 2,
            'checkpoint_period_steps': 1000}
  return config_lib.Config(
      environments=('chain_short',), rule=RULE,
      meta=config_lib.MetaConfig(num_lifetimes=2 * NUM_SHARDS,
                                 learning_rate=0.01),
      run=config_lib.RunConfig(**{**fields, **run}))


class FakeBandit:
  """Records calls, and the meta-step of the eta that was published then."""

  def __init__(self):
    self.learner = None
    self.steps, self.published, self.released = [], [], False
    self.epoch, self.meta_step = 0, 0

  def get_epoch(self):
    return self.epoch

  def restore(self, epoch, state):
    self.epoch = epoch
    self.meta_step = state['meta_step'] if state else 0

  def end_step(self, meta_step, reports, epoch):
    if epoch != self.epoch or meta_step < self.meta_step:
      return False
    self.steps.append((meta_step, reports))
    self.published.append(self.learner.get_eta()['meta_step'])
    self.meta_step = meta_step + 1
    return True

  def get_state(self):
    return {'epoch': self.epoch, 'meta_step': self.meta_step, 'bandits': {}}

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
    # Gradients of very different sizes: the order of summation matters.
    values = rng.normal(size=SIZE) * 10. ** rng.integers(-6, 7, size=SIZE)
  return types.MetaGradient(meta_step, shard_id, np.float32(values), 2,
                            metrics)


class Run:
  """A learner that runs in its own thread."""

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
    self.sequence = 0
    self.thread = threading.Thread(target=self._run, daemon=True)

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
      self.sequence += 1
      assert self.queue.put(gradient._replace(
          epoch=gradient.epoch or self.epoch, writer=1,
          sequence=self.sequence), 1.)

  def put_step(self, meta_step, order=range(NUM_SHARDS)):
    self.put(*(make_gradient(meta_step, i) for i in order))

  def get_update(self, meta_step, timeout_s=TIMEOUT_S):
    return self.learner.get_update(0, self.epoch, meta_step, timeout_s)

  def wait_for(self, meta_step):
    update = self.get_update(meta_step)
    assert update['reached'] and update['meta_step'] == meta_step
    assert update['epoch'] == self.epoch
    return update

  @property
  def epoch(self):
    return self.learner._epoch

  def save_last_parts(self):
    """Stops training and writes the shards' parts, as workers would."""
    self.save_parts(self.learner.stop_training()['meta_step'])

  def save_parts_when_asked(self, step):
    while self.get_update(step)['save_meta_step'] != step:
      time.sleep(0.01)
    self.save_parts(step)

  def save_parts(self, step):
    for name in meta_learner.shard_parts(self.config):
      record = checkpointing.write_part(self.run_dir, step, name, b'shard')
      assert self.learner.record_part(
          step, record.name, record.sha256, record.size, self.epoch)

  def finish(self):
    if self.thread.is_alive():
      self.stop.set()
      self.save_last_parts()
    self.thread.join(TIMEOUT_S)
    assert not self.thread.is_alive()
    return self
