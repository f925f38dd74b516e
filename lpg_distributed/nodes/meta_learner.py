"""The node that owns eta: gradients in, eta out (Algorithm 1)."""

import json
import os
import threading
import time
from typing import Any, Optional, Sequence

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import eta_file
from lpg_distributed import types
from lpg_distributed.core import meta_update
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import checkpointing
from lpg_distributed.nodes import coordinator
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import loggers
from lpg_distributed.nodes import step_metrics

_WAIT_S = 0.5  # how often a wait looks whether the program stops
# What the last checkpoint waits for its shards; they may be mid-computation.
_LAST_CHECKPOINT_S = 30.
NO_COUNTS = {'env_steps': 0, 'resets': 0, 'duplicates': 0, 'stale': 0,
             'elapsed_s': 0.}


def shard_parts(config: config_lib.Config) -> list[str]:
  """The names of the parts that workers write."""
  return [checkpointing.shard_part_name(s.shard_id) for s in config.shards()]


class MetaLearner:
  """Sums the shards' gradients and moves eta.

  Synchronous mode waits for one gradient of every shard and adds them up in
  shard order; asynchronous mode takes any, as long as they are fresh enough.
  Public methods but `run` are called by other nodes; all of them may be
  called twice.
  """

  def __init__(self, config: config_lib.Config,
               queue: gradient_queue.GradientReader, bandit: Any,
               run_dir: str, checkpoint: Optional[checkpointing.Checkpoint],
               stop: threading.Event):
    """Starts afresh, or where `checkpoint` was written."""
    self._config = config
    self._queue = queue
    self._bandit = bandit
    self._run_dir = run_dir
    self._stop = stop
    self._specs = {spec.shard_id: spec for spec in config.shards()}
    self._owner = {spec.shard_id: worker
                   for worker, specs in enumerate(assignment.assign(config))
                   for spec in specs}
    self._last_seen: dict[int, float] = {}
    # Guards what is published; whoever holds it sees a whole meta-step.
    self._changed = threading.Condition()
    self._update_lock = threading.Lock()
    self._frozen = False
    self._counters = dict(NO_COUNTS)
    self._row: dict[str, float] = {}
    self._num_arrived = 0
    self._meta_step = 0
    self._state = meta_update.init(config)
    if checkpoint is not None:
      self._restore(checkpoint)
    self._published = self._meta_step, np.asarray(self._state.eta)
    self._checkpoint = coordinator.CheckpointCoordinator(
        run_dir, shard_parts(config), config.run.checkpoints_kept,
        last_committed=-1 if checkpoint is None else self._meta_step)
    self._apply = jax.jit(
        lambda *args: meta_update.apply(config.meta, *args))

  def _restore(self, checkpoint):
    saved = checkpointing.load_tree(
        checkpointing.read_part(checkpoint, 'learner'), like=self._saved())
    self._state = saved['state']
    self._meta_step = int(saved['meta_step'])
    self._counters = {
        name: type(zero)(saved['counters'][name].item())
        for name, zero in NO_COUNTS.items()}

  def _saved(self) -> dict[str, Any]:
    counters = {k: np.asarray(v, np.float64)
                for k, v in self._counters.items()}
    return {'state': self._state, 'meta_step': np.int64(self._meta_step),
            'counters': counters}

  # What workers call.

  def get_update(self, worker_id: int, meta_step: int,
                 timeout_s: float) -> Optional[dict[str, Any]]:
    """Waits until the learner has reached `meta_step`.

    Returns:
      None if that took longer than `timeout_s`, else `meta_step`, `eta` [P],
      `finished`, and `save_meta_step`: the checkpoint that wants the worker's
      shards, or -1.
    """
    with self._changed:
      self._last_seen.setdefault(worker_id, time.monotonic())
      reached = self._changed.wait_for(
          lambda: self._frozen or self._published[0] >= meta_step, timeout_s)
      if not reached:
        return None
      published, eta = self._published
      return {'meta_step': published, 'eta': eta,
              'finished': self._frozen,
              'save_meta_step': self._checkpoint.open_step}

  def record_part(self, meta_step: int, name: str, sha256: str,
                  size: int) -> bool:
    """Notes that a part of a checkpoint is written."""
    return self._checkpoint.record(
        meta_step, checkpointing.PartRecord(name, sha256, size))

  def stop_training(self) -> int:
    """Ends training after the meta-step that is being applied, if any.

    Returns:
      The meta-step at which eta stays, and so that of the last checkpoint.
    """
    with self._update_lock:
      if not self._frozen:
        self._publish(frozen=True)
      if (self._checkpoint.last_committed != self._meta_step
          and self._checkpoint.open_step != self._meta_step):
        self._open_checkpoint()
      return self._meta_step

  # What anybody may call.

  def get_eta(self) -> dict[str, Any]:
    """The newest rule as a vector, and its meta-step."""
    with self._changed:
      meta_step, eta = self._published
      return {'meta_step': meta_step, 'eta': eta}

  def get_status(self) -> dict[str, Any]:
    """Where the run is, for whoever watches it."""
    with self._changed:
      now = time.monotonic()
      return {
          'meta_step': self._published[0],
          'frozen': self._frozen,
          'row': dict(self._row),
          'counters': dict(self._counters),
          'shards_arrived': self._num_arrived,
          'shards': len(self._specs),
          'worker_ages_s': {str(worker): now - seen for worker, seen
                            in self._last_seen.items()},
          'last_checkpoint': self._checkpoint.last_committed,
      }

  # The loop.

  def run(self) -> None:
    """Learns until all meta-steps are done or `stop` is set."""
    logger = loggers.MetricsLogger(self._run_dir, 'learner',
                                   resume_step=self._meta_step)
    threading.Thread(target=self._freeze_when_stopped, daemon=True).start()
    collect = (self._collect_all if self._config.run.mode == 'sync'
               else self._collect_fresh)
    try:
      while (self._meta_step < self._config.run.meta_steps
             and not self._frozen):
        begin = time.monotonic()
        gradients = collect()
        if gradients is None:
          break
        with self._update_lock:
          if self._frozen:
            break
          self._learn(gradients, begin)
        logger.write(self._meta_step - 1, self._row)
      meta_step = self.stop_training()
      missing = self._checkpoint.wait(_LAST_CHECKPOINT_S)
      if missing:
        logging.error('no checkpoint of meta-step %d: %s did not come',
                      meta_step, ', '.join(missing))
      self._save_eta('eta.npz')
    finally:
      logger.close()
      self._bandit.release()

  def _freeze_when_stopped(self) -> None:
    self._stop.wait()
    self.stop_training()

  def _collect_all(self) -> Optional[list[types.MetaGradient]]:
    """One gradient of every shard, in shard order; None when stopping."""
    arrived: dict[int, types.MetaGradient] = {}
    deadline = time.monotonic() + self._config.run.step_timeout_s
    while len(arrived) < len(self._specs):
      gradient = self._next(deadline, arrived)
      if gradient is None:
        return None
      if gradient.meta_step != self._meta_step:
        self._count('stale')
      elif gradient.shard_id in arrived:
        self._count('duplicates')
      else:
        arrived[gradient.shard_id] = gradient
        self._num_arrived = len(arrived)
    return [arrived[shard_id] for shard_id in sorted(arrived)]

  def _collect_fresh(self) -> Optional[list[types.MetaGradient]]:
    """The next gradients that are not too old, as they come."""
    wanted = self._config.run.gradients_per_update or len(self._specs)
    deadline = time.monotonic() + self._config.run.step_timeout_s
    arrived: list[types.MetaGradient] = []
    while len(arrived) < wanted:
      gradient = self._next(deadline, [g.shard_id for g in arrived])
      if gradient is None:
        return None
      age = self._meta_step - gradient.meta_step
      if age > self._config.run.max_staleness:
        self._count('stale')
      else:
        arrived.append(gradient)
        self._num_arrived = len(arrived)
    return arrived

  def _next(self, deadline, arrived) -> Optional[types.MetaGradient]:
    while not self._frozen:
      gradient = self._queue.get(_WAIT_S)
      if gradient is not None:
        self._last_seen[self._owner[gradient.shard_id]] = time.monotonic()
        return gradient
      if time.monotonic() > deadline:
        missing = sorted(self._specs.keys() - set(arrived))
        raise RuntimeError(
            f'meta-step {self._meta_step} took longer than run.step_timeout_s'
            f' = {self._config.run.step_timeout_s:g}; still missing: shards '
            f'{", ".join(map(str, missing))} of workers '
            f'{", ".join(sorted({str(self._owner[i]) for i in missing}))}')
    return None

  def _count(self, name: str, amount: float = 1) -> None:
    self._counters[name] += amount

  def _learn(self, gradients: Sequence[types.MetaGradient],
             begin: float) -> None:
    """One meta-update; then tells the bandit, and then the workers."""
    total = np.zeros(self._state.eta.shape, np.float32)
    for gradient in gradients:  # A fixed order: sums of floats depend on it.
      total += gradient.gradient_sum
    num_lifetimes = sum(g.num_lifetimes for g in gradients)
    state, norm = self._apply(
        self._state, total, jnp.float32(num_lifetimes))
    reports = [list(report) for gradient in gradients
               for report in step_metrics.final_returns(
                   gradient, self._specs[gradient.shard_id])]
    self._bandit.end_step(self._meta_step, reports)
    # Not before: if the bandit is gone, the last checkpoint has neither.
    self._state = state

    resets = step_metrics.count_resets(gradients)
    steps = num_lifetimes * self._config.meta.window_env_steps
    seconds = time.monotonic() - begin
    self._count('env_steps', steps)
    self._count('resets', resets['collapsed'] + resets['not_finite'])
    self._count('elapsed_s', seconds)
    row = step_metrics.summarise(gradients, self._specs)
    row.update({f'resets/{name}': count for name, count in resets.items()})
    row.update(self._counters)
    row.update(gradient_norm=float(norm), env_steps_per_s=steps / seconds,
               step_s=seconds, lifetimes_ended=len(reports))
    ages = [self._meta_step - g.meta_step for g in gradients]
    row['staleness'] = sum(ages) / len(ages)
    self._meta_step += 1
    self._num_arrived = 0
    if self._meta_step % self._config.run.eta_snapshot_period_steps == 0:
      self._save_eta(os.path.join('eta', f'eta_{self._meta_step:08d}.npz'))
    if self._checkpoint_is_due():
      self._open_checkpoint()
    self._publish(row=row)

  def _checkpoint_is_due(self) -> bool:
    run = self._config.run
    return self._checkpoint.open_step == -1 and (
        self._meta_step % run.checkpoint_period_steps == 0
        or self._checkpoint.seconds_since_commit > run.checkpoint_period_s)

  def _open_checkpoint(self) -> None:
    self._checkpoint.open(self._meta_step, {
        'learner': checkpointing.save_tree(self._saved()),
        'bandit': json.dumps(self._bandit.get_state()).encode()})

  def _save_eta(self, name: str) -> None:
    eta_file.save(os.path.join(self._run_dir, name), self._state.eta,
                  self._config.rule, meta_step=self._meta_step)

  def _publish(self, row=None, frozen=False) -> None:
    with self._changed:
      self._published = self._meta_step, np.asarray(self._state.eta)
      self._row = row if row is not None else self._row
      self._frozen = self._frozen or frozen
      self._changed.notify_all()
