"""Collects the parts of a checkpoint from the nodes, and commits it."""

import errno
import os
import threading
import time
from typing import Iterable, Mapping, Optional

from absl import logging

from lpg_distributed.store import checkpointing

_FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointCoordinator:
  """Writes one checkpoint at a time, atomically.

  If the disk is full or read-only, the checkpoint is given up with an error in
  the log. Its files are removed, and on a full disk the oldest checkpoint too.
  The next checkpoint is tried after the usual period.
  """

  def __init__(self, run_dir: str, shard_parts: Iterable[str], kept: int,
               last_committed: int = -1,
               manifest: Optional[Mapping[str, object]] = None):
    """Removes incomplete checkpoints of an earlier launch.

    Args:
      run_dir: an opened run directory.
      shard_parts: names of the parts that workers write.
      kept: number of checkpoints to keep, the newest.
      last_committed: meta-step of the newest checkpoint on disk, or -1.
      manifest: facts of the run for each checkpoint's manifest; see
        `checkpointing.commit`.
    """
    self._run_dir = run_dir
    self._shard_parts = frozenset(shard_parts)
    self._kept = kept
    self._manifest = manifest or {}
    self._changed = threading.Condition()
    self._open_step = -1
    self._records: dict[str, checkpointing.PartRecord] = {}
    self._committed_time = time.monotonic()
    self.last_committed = last_committed
    self.num_failures = 0
    self.failure = ''  # of the newest checkpoint, else empty
    checkpointing.remove_incomplete(run_dir)  # Of a launch that was killed.

  @property
  def open_step(self) -> int:
    """The meta-step of the open checkpoint, or -1."""
    return self._open_step

  @property
  def seconds_since_commit(self) -> float:
    return time.monotonic() - self._committed_time

  def open(self, meta_step: int, own_parts: Mapping[str, bytes]) -> None:
    """Begins a checkpoint; gives up an open one of another meta-step.

    Args:
      meta_step: meta-step of the checkpoint.
      own_parts: the learner's parts by name.
    """
    with self._changed:
      if self._open_step not in (-1, meta_step):
        logging.warning('checkpoint %d was never completed; missing: %s',
                        self._open_step, ', '.join(self._missing()))
        self._records = {}
      self._open_step = meta_step
      checkpointing.remove_incomplete(self._run_dir, but=meta_step)
      while (checkpointing.is_short_of_space(self._run_dir)
             and self._remove_oldest()):
        pass
      try:
        for name, data in own_parts.items():
          self._records[name] = checkpointing.write_part(
              self._run_dir, meta_step, name, data)
        self._commit_if_complete()
      except OSError as error:
        self._fail(str(error))

  def record(self, meta_step: int,
             record: checkpointing.PartRecord) -> bool:
    """Records a part that a worker wrote; False if none is expected."""
    with self._changed:
      if meta_step != self._open_step or record.name not in self._shard_parts:
        return False
      self._records[record.name] = record
      try:
        self._commit_if_complete()
      except (OSError, checkpointing.CheckpointError) as error:
        self._fail(str(error))
        return False
      return True

  def give_up(self, meta_step: int, reason: str) -> None:
    """Gives up the checkpoint, if open: a part could not be written."""
    with self._changed:
      if meta_step == self._open_step:
        self._fail(reason)

  def abandon(self, last_committed: int) -> None:
    """Drops the open checkpoint; the run goes back to `last_committed`."""
    with self._changed:
      self._open_step, self._records = -1, {}
      self.last_committed = last_committed
      self._committed_time = time.monotonic()
      self._changed.notify_all()

  def wait(self, timeout_s: float) -> list[str]:
    """Waits for the open checkpoint; returns the parts still missing."""
    with self._changed:
      self._changed.wait_for(lambda: self._open_step == -1, timeout_s)
      return [] if self._open_step == -1 else self._missing()

  def _fail(self, reason: str) -> None:
    logging.error('checkpoint %d could not be written: %s; training goes on',
                  self._open_step, reason)
    self.num_failures += 1
    self.failure = reason
    self._open_step, self._records = -1, {}
    checkpointing.remove_incomplete(self._run_dir)
    if any(os.strerror(code) in reason for code in _FULL):
      self._remove_oldest()
    self._committed_time = time.monotonic()  # The next one after a period.
    self._changed.notify_all()

  def _remove_oldest(self) -> bool:
    """Removes the oldest checkpoint; False if only one is left, and stays."""
    step = checkpointing.remove_oldest(self._run_dir)
    if step is not None:
      logging.warning('the disk is full: checkpoint %d is removed, so that a '
                      'newer one has room', step)
    return step is not None

  def _missing(self) -> list[str]:
    return sorted(self._shard_parts - self._records.keys())

  def _commit_if_complete(self) -> None:
    if self._missing():
      return
    checkpointing.commit(self._run_dir, self._open_step,
                         list(self._records.values()), self._kept,
                         self._manifest)
    self.last_committed, self.failure = self._open_step, ''
    self._committed_time = time.monotonic()
    self._open_step = -1
    self._records = {}
    self._changed.notify_all()
