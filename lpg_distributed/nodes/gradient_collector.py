"""Collects the gradients of each meta-step; drops and counts the others.

Each message from the queue is counted once. It is taken and later applied, or
dropped: as a duplicate, as stale, or as superseded (of an earlier epoch). See
`MetaLearner` for epochs.
"""

import threading
import time
from typing import Any, Callable, Mapping, Optional

from absl import logging

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.nodes import gradient_queue

_WAIT_S = 0.5  # between two checks whether to go on waiting
# Warn after this many times the duration of the last meta-step, but not before
# this many seconds.
_SLOW_FACTOR, _SLOW_S = 5., 20.

NO_COUNTS = {'received': 0, 'applied': 0, 'duplicates': 0, 'stale': 0,
             'superseded': 0}


class GradientCollector:
  """Collects the gradients of one meta-step after another."""

  def __init__(self, config: config_lib.Config,
               queue: gradient_queue.GradientReader, owner: Mapping[int, int]):
    """Makes a collector.

    Args:
      config: configuration of the run.
      queue: delivers the workers' gradients.
      owner: shard number to worker number.
    """
    self._config = config
    self._queue = queue
    self._owner = owner
    self._lock = threading.Lock()
    self._arrived: list[types.MetaGradient] = []
    self._newest: dict[int, int] = {}  # sequence number by writer
    self._last_s: Optional[float] = None
    self.counts = dict(NO_COUNTS)  # since this object was made
    self.last_seen: dict[int, float] = {}  # by worker

  @property
  def num_arrived(self) -> int:
    """Number of gradients taken for the current meta-step."""
    return len(self._arrived)

  def missing(self) -> list[int]:
    """Numbers of the shards that the current meta-step waits for."""
    with self._lock:
      return sorted(self._owner.keys() - {g.shard_id for g in self._arrived})

  def books(self) -> dict[str, Any]:
    """Returns the counts, with those of the queue.

    While nothing is sent, and if the queue was not restarted, `inserted` =
    `received` + `held` + `waiting`. `received` is the sum of the other counts
    and `unapplied`.
    """
    queue = self._queue.books()
    with self._lock:
      return {**self.counts, 'unapplied': len(self._arrived),
              **({} if queue is None else queue._asdict())}

  def collect(self, meta_step: int, epoch: int, wanted: Callable[[], bool]
              ) -> Optional[list[types.MetaGradient]]:
    """Waits for the gradients of a meta-step.

    Args:
      meta_step: the learner's meta-step.
      epoch: the learner's epoch; messages of other epochs are dropped.
      wanted: called twice a second; False ends the wait.

    Returns:
      The gradients; in synchronous mode sorted by shard. None if `wanted`
      returned False.

    Raises:
      RuntimeError: it took longer than `run.step_timeout_s`.
    """
    run = self._config.run
    synchronous = run.mode == 'sync'
    number = (len(self._owner) if synchronous
              else run.gradients_per_update or len(self._owner))
    begin = time.monotonic()
    slow_s = max(_SLOW_S, _SLOW_FACTOR * (self._last_s or 60.))
    warned = False
    self.mark_dropped()  # Left over from an earlier epoch.
    while len(self._arrived) < number:
      if not wanted():
        return None
      gradient = self._queue.get(_WAIT_S)
      if gradient is not None:
        self._sort_in(gradient, meta_step, epoch)
        continue
      waited_s = time.monotonic() - begin
      if waited_s > run.step_timeout_s:
        raise RuntimeError(
            f'meta-step {meta_step} took longer than run.step_timeout_s = '
            f'{run.step_timeout_s:g}; still missing: {self._name_missing()}')
      if waited_s > slow_s and not warned:
        warned = True
        logging.warning('meta-step %d takes longer than %.0f s; still '
                        'missing: %s', meta_step, slow_s,
                        self._name_missing())
    self._last_s = time.monotonic() - begin
    with self._lock:
      arrived = list(self._arrived)
    if synchronous:  # Sums of floats depend on the order.
      arrived.sort(key=lambda gradient: gradient.shard_id)
    return arrived

  def mark_applied(self) -> None:
    """Counts the current gradients as applied to eta."""
    with self._lock:
      self.counts['applied'] += len(self._arrived)
      self._arrived = []

  def mark_dropped(self) -> None:
    """Drops the current gradients as superseded."""
    with self._lock:
      self.counts['superseded'] += len(self._arrived)
      self._arrived = []

  def _sort_in(self, gradient, meta_step, epoch) -> None:
    with self._lock:
      self.last_seen[self._owner[gradient.shard_id]] = time.monotonic()
      self.counts['received'] += 1
      fate = self._fate(gradient, meta_step, epoch)
      if fate is None:
        self._arrived.append(gradient)
      else:
        self.counts[fate] += 1

  def _fate(self, gradient, meta_step, epoch) -> Optional[str]:
    """Returns None to take a gradient, else the name of its count."""
    if gradient.epoch != epoch:
      return 'superseded'
    if self._config.run.mode == 'sync':
      if gradient.meta_step != meta_step:
        return 'stale'
      taken = {g.shard_id for g in self._arrived}
      return 'duplicates' if gradient.shard_id in taken else None
    if gradient.sequence <= self._newest.get(gradient.writer, -1):
      return 'duplicates'
    self._newest[gradient.writer] = gradient.sequence
    age = meta_step - gradient.meta_step
    return 'stale' if age > self._config.run.max_staleness else None

  def _name_missing(self) -> str:
    missing = self.missing()
    workers = sorted({str(self._owner[i]) for i in missing})
    return (f'shards {", ".join(map(str, missing))} of workers '
            f'{", ".join(workers)}')
