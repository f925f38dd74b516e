"""The node that updates eta from the workers' gradients (Algorithm 1).

The learner also keeps the nodes consistent. Whenever a node loses its state,
the learner begins a new epoch: it rolls back to the last checkpoint, and the
workers follow with their next call. All results are functions of the seed and
the meta-step, so the run arrives at the same eta.
"""

import json
import math
import os
import secrets
import threading
import time
from typing import Any, Optional, Sequence

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import types
from lpg_distributed.core import meta_update
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import bandit_link
from lpg_distributed.nodes import coordinator
from lpg_distributed.nodes import gradient_collector
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import gradient_sum
from lpg_distributed.nodes import initial_rule
from lpg_distributed.nodes import not_finite
from lpg_distributed.nodes import rpc
from lpg_distributed.nodes import run_metrics
from lpg_distributed.nodes import step_metrics
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file

_WAIT_S = 0.5  # between two checks whether the program stops
# Wait for the shards of the last checkpoint, since workers may be computing.
_LAST_CHECKPOINT_S = 30.
NO_COUNTS = {'env_steps': 0, 'resets': 0, 'elapsed_s': 0.,
             **gradient_collector.NO_COUNTS}
NO_EPOCH = 0  # epoch of a worker without shards


def shard_parts(config: config_lib.Config) -> list[str]:
  """Returns the names of the checkpoint parts that workers write."""
  return [checkpointing.shard_part_name(s.shard_id) for s in config.shards()]


class MetaLearner:
  """Sums the shards' gradients and updates eta.

  Synchronous mode waits for one gradient of every shard and sums them in
  shard order. Asynchronous mode takes any that are not stale. Other nodes call
  all public methods except `run`; calls can be repeated safely.
  """

  def __init__(self, config: config_lib.Config,
               queue: gradient_queue.GradientReader, bandit: Any,
               run_dir: str, checkpoint: Optional[checkpointing.Checkpoint],
               stop: threading.Event):
    """Resumes from `checkpoint`; None: starts at meta-step 0.

    `bandit` is a `BanditServer` or an `rpc.Client` of one; `run_dir` is open.
    Raises UserError if `checkpoint` or `run.initial_rule` does not fit.
    """
    self._config = config
    self._bandit = bandit_link.BanditLink(bandit)
    self._run_dir = run_dir
    self._stop = stop
    self._synchronous = config.run.mode == 'sync'
    self._specs = {spec.shard_id: spec for spec in config.shards()}
    self._collector = gradient_collector.GradientCollector(
        config, queue, {spec.shard_id: worker for worker, specs
                        in enumerate(assignment.assign(config))
                        for spec in specs})
    # Guards `_published`, `_row`, `_frozen` and `_finished`.
    self._changed = threading.Condition()
    # Guards all other state. Acquire it before `_changed`.
    self._update_lock = threading.Lock()
    self._frozen = False  # Training has ended; eta is final.
    self._finished = False  # The last checkpoint is written or abandoned.
    # Seconds for workers in other processes to learn that training has ended.
    self.last_word_s = 0.
    self._row: dict[str, float] = {}
    self._num_rollbacks = 0
    self._not_finite = not_finite.Watch(config, run_dir)
    self._past: dict[str, float] = {}
    self._load(checkpoint)
    # Counts of messages of earlier launches; a rollback keeps them.
    self._past = {name: self._counters[name]
                  for name in gradient_collector.NO_COUNTS}
    self._published = self._meta_step, np.asarray(self._state.eta)
    self._checkpoint = coordinator.CheckpointCoordinator(
        run_dir, shard_parts(config), config.run.checkpoints_kept,
        last_committed=self._base_step,
        manifest={'config': config_io.to_dict(config)})

  def _load(self, checkpoint: Optional[checkpointing.Checkpoint]) -> None:
    """Begins an epoch at a checkpoint; None: at the first meta-step."""
    self._counters = dict(NO_COUNTS)
    self._meta_step, self._base_step, bandit_state = 0, -1, None
    # A run that resumes needs the shapes alone: its checkpoint has the values.
    self._state = (jax.eval_shape(lambda: meta_update.init(self._config))
                   if checkpoint else
                   initial_rule.first_state(self._config, self._run_dir))
    if checkpoint is not None:
      checkpointing.require_same_config(checkpoint, self._config)
      saved = checkpointing.read_tree(checkpoint, 'learner',
                                      like=self._saved())
      self._state = saved['state']
      self._meta_step = self._base_step = int(saved['meta_step'])
      self._counters = {name: type(zero)(saved['counters'][name].item())
                        for name, zero in NO_COUNTS.items()}
      bandit_state = checkpointing.load_json(checkpoint, 'bandit')
    self._first_step = self._meta_step
    self._epoch = 1 + secrets.randbits(60)
    self._bandit.begin(self._epoch, bandit_state)

  def _saved(self) -> dict[str, Any]:
    counters = {k: np.asarray(v, np.float64)
                for k, v in self._all_counters().items()}
    return {'state': self._state, 'meta_step': np.int64(self._meta_step),
            'counters': counters}

  def _all_counters(self) -> dict[str, float]:
    messages = {name: self._past.get(name, 0) + count
                for name, count in self._collector.counts.items()}
    return {**NO_COUNTS, **self._counters, **messages}

  # Called by workers.

  def get_update(self, worker_id: int, epoch: int, meta_step: int,
                 timeout_s: float) -> dict[str, Any]:
    """Waits until the learner has reached `meta_step`.

    Args:
      worker_id: number of the calling worker.
      epoch: epoch of the worker's shards; `NO_EPOCH` if it has none.
      meta_step: meta-step to wait for.
      timeout_s: longest wait.

    Returns:
      `epoch`: if it differs from the argument, the worker loads its shards
      from checkpoint `restore_step` (-1: new shards) and ignores the rest.
      `reached`: whether the wait succeeded; `eta` [P]: that of `meta_step`,
      or None if it did not. `missing`: shards without a gradient in this
      meta-step. `save_meta_step`: the open checkpoint, or -1. `go_on`: whether
      training continues. `finished`: whether the worker should end.
    """
    self._collector.last_seen.setdefault(worker_id, time.monotonic())
    if epoch == NO_EPOCH:
      self._welcome(worker_id)
    with self._changed:
      reached = self._changed.wait_for(
          lambda: self._epoch != epoch or self._frozen or self._finished
          or self._published[0] >= meta_step, timeout_s)
      published, eta = self._published
      restore_step = (self._base_step if self._synchronous
                      else self._checkpoint.last_committed)
      return {'epoch': self._epoch, 'restore_step': restore_step,
              'reached': reached, 'meta_step': published,
              'eta': eta if reached and self._epoch == epoch else None,
              'missing': self._collector.missing() if self._synchronous
                         else [],
              'save_meta_step': self._checkpoint.open_step,
              'go_on': not self._frozen
                       and published < self._config.run.meta_steps,
              'finished': self._finished}

  def record_part(self, meta_step: int, name: str, sha256: str, size: int,
                  epoch: int) -> bool:
    """Records that a worker wrote a part; False if none is expected."""
    return epoch == self._epoch and self._checkpoint.record(
        meta_step, checkpointing.PartRecord(name, sha256, size))

  def give_up_checkpoint(self, meta_step: int, reason: str,
                         epoch: int) -> None:
    """Gives up a checkpoint: a worker could not write a part."""
    if epoch == self._epoch:
      self._checkpoint.give_up(meta_step, reason)

  def stop_training(self) -> dict[str, int]:
    """Ends training after the meta-step that is being applied, if any.

    Returns `meta_step`, that of the last checkpoint, and `epoch`.
    """
    with self._update_lock:
      if not self._frozen:
        self._publish(frozen=True)
      self._open_last_checkpoint()
      return {'meta_step': self._meta_step, 'epoch': self._epoch}

  # Called by any node.

  def get_eta(self) -> dict[str, Any]:
    """Returns the newest `eta` [P] and its `meta_step`."""
    with self._changed:
      meta_step, eta = self._published
      return {'meta_step': meta_step, 'eta': eta}

  def get_status(self) -> dict[str, Any]:
    """Returns progress, counts and delays to display."""
    with self._changed:
      now = time.monotonic()
      return {
          'meta_step': self._published[0],
          'frozen': self._frozen,
          'row': dict(self._row),
          'counters': self._all_counters(),
          'shards_arrived': self._collector.num_arrived,
          'shards': len(self._specs),
          'worker_ages_s': {str(worker): now - seen for worker, seen
                            in dict(self._collector.last_seen).items()},
          'last_checkpoint': self._checkpoint.last_committed,
          'failed_checkpoints': self._checkpoint.num_failures,
          'checkpoint_failure': self._checkpoint.failure,
          'rollbacks': self._num_rollbacks,
      }

  def get_books(self) -> dict[str, int]:
    """See `GradientCollector.books`."""
    return self._collector.books()

  # Epochs.

  def _welcome(self, worker_id: int) -> None:
    """Rolls back if a worker lost its shards in this epoch."""
    with self._update_lock:
      if (self._synchronous and self._meta_step != self._first_step
          and not self._frozen and not self._finished):
        self._roll_back(f'worker {worker_id} was started again')

  def _roll_back(self, reason: str) -> None:
    lost_step = self._meta_step
    checkpoint = checkpointing.latest(self._run_dir)
    with self._changed:
      self._load(checkpoint)
      self._checkpoint.abandon(self._base_step)
      self._num_rollbacks += 1
      self._publish(row={})
    logging.warning('%s: back from meta-step %d to %d', reason, lost_step,
                    self._meta_step)

  # The loop.

  def run(self) -> None:
    """Learns until all meta-steps are done or `stop` is set, or raises."""
    done = threading.Event()
    threading.Thread(
        target=lambda: self._stop.wait() and self.stop_training(),
        daemon=True).start()
    threading.Thread(
        target=self._bandit.watch, daemon=True, args=(
            self._update_lock,
            lambda wait_s: done.wait(wait_s) or self._stop.is_set())).start()
    try:
      self._train()
      while not self._end():
        self._train()  # The run rolled back before the last checkpoint.
      self._save_eta('eta.npz')
      if self._not_finite.exceeded:
        raise self._not_finite.error(self._not_finite.write(self._meta_step))
      time.sleep(self.last_word_s)
    finally:
      done.set()
      self._bandit.release()

  def _train(self) -> None:
    """Runs meta-steps until the last one, or until eta is frozen."""
    logger, logged = None, NO_EPOCH
    while not self._frozen and self._meta_step < self._config.run.meta_steps:
      with self._update_lock:
        epoch, meta_step = self._epoch, self._meta_step
      if epoch != logged:
        if logger is not None:
          logger.close()
        logger, logged = run_metrics.RunMetrics(
            self._config, self._run_dir, meta_step), epoch
      begin = time.monotonic()
      gradients = self._collector.collect(
          meta_step, epoch,
          lambda: not self._frozen and self._epoch == epoch)
      if gradients is None:
        continue
      with self._update_lock:
        if self._frozen or self._epoch != epoch:
          continue
        try:
          self._learn(gradients, begin)
        except rpc.Stopped:
          break
      logger.write(meta_step, self._row, self._bandit.state)
      if self._not_finite.exceeded:
        self.stop_training()
    if logger is not None:
      logger.close()

  def _end(self) -> bool:
    """Waits for the last checkpoint; False if the run rolled back."""
    epoch, failures = self._epoch, self._checkpoint.num_failures
    patience_s = self._config.run.step_timeout_s
    begin = time.monotonic()
    while True:
      with self._update_lock:
        if self._epoch != epoch:
          return False
        whole = self._checkpoint.last_committed == self._meta_step
        self._open_last_checkpoint()
      if whole or time.monotonic() - begin > patience_s:
        break
      if (patience_s > _LAST_CHECKPOINT_S and (
          self._stop.is_set() or self._checkpoint.num_failures > failures)):
        begin, patience_s = time.monotonic(), _LAST_CHECKPOINT_S
      missing = self._checkpoint.wait(_WAIT_S)
      if not missing and self._checkpoint.last_committed != self._meta_step:
        self._stop.wait(_WAIT_S)  # It could not be written.
    if not whole:
      logging.error('no checkpoint of meta-step %d: %s did not come',
                    self._meta_step, ', '.join(missing) or 'its files')
    with self._changed:
      self._finished = True
      self._changed.notify_all()
    return True

  def _learn(self, gradients: Sequence[types.MetaGradient],
             begin: float) -> None:
    """Applies one meta-update, then tells the bandit, then the workers."""
    total, divisor = gradient_sum.weighted(
        gradients, self._specs, self._config)
    state, norm = meta_update.apply(self._config.meta, self._state, total,
                                    jnp.float32(divisor))
    norm = float(norm)
    if not math.isfinite(norm):  # The terms are finite, but not their sum.
      state = self._state
    reports = [list(report) for gradient in gradients
               for report in step_metrics.final_returns(
                   gradient, self._specs[gradient.shard_id])]
    bandit_state = self._bandit.end_step(self._meta_step, reports)
    # Both are replaced at once: if the bandit does not answer, a checkpoint
    # contains neither.
    self._state, self._bandit.state = state, bandit_state
    self._collector.mark_applied()

    resets = step_metrics.count_resets(gradients)
    steps = (sum(g.num_lifetimes for g in gradients)
             * self._config.meta.window_env_steps)
    seconds = time.monotonic() - begin
    self._counters['env_steps'] += steps
    self._counters['resets'] += resets['collapsed'] + resets['not_finite']
    self._counters['elapsed_s'] += seconds
    row = step_metrics.summarise(gradients, self._specs)
    row.update(step_metrics.of_whole_step(
        gradients, self._meta_step, resets, self._all_counters()))
    row.update(gradient_norm=norm, env_steps_per_s=steps / seconds,
               step_s=seconds, lifetimes_ended=len(reports))
    self._meta_step += 1
    if self._meta_step % self._config.run.eta_snapshot_period_steps == 0:
      try:
        self._save_eta(os.path.join('eta', f'eta_{self._meta_step:08d}.npz'))
      except OSError as error:
        logging.error('no snapshot of eta: %s; training goes on', error)
    if self._checkpoint_is_due():
      self._open_checkpoint()
    self._publish(row=row)
    self._not_finite.see(
        not_finite.find_cases(gradients, self._specs), norm)

  # Checkpoints, and values that other nodes read.

  def _checkpoint_is_due(self) -> bool:
    run = self._config.run
    return self._checkpoint.open_step == -1 and (
        self._meta_step % run.checkpoint_period_steps == 0
        or self._checkpoint.seconds_since_commit > run.checkpoint_period_s)

  def _open_last_checkpoint(self) -> None:
    if self._meta_step not in (self._checkpoint.last_committed,
                               self._checkpoint.open_step):
      self._open_checkpoint()

  def _open_checkpoint(self) -> None:
    self._checkpoint.open(self._meta_step, {
        'learner': checkpointing.save_tree(self._saved()),
        'bandit': json.dumps(self._bandit.state).encode()})

  def _save_eta(self, name: str) -> None:
    eta_file.save(os.path.join(self._run_dir, name), self._state.eta,
                  self._config.rule, meta_step=self._meta_step)

  def _publish(self, row=None, frozen=False) -> None:
    with self._changed:
      self._published = self._meta_step, np.asarray(self._state.eta)
      self._row = row if row is not None else self._row
      self._frozen = self._frozen or frozen
      self._changed.notify_all()
