"""Brings the parts of a checkpoint together, whoever writes them."""

import threading
import time
from typing import Iterable, Mapping

from absl import logging

from lpg_distributed.nodes import checkpointing


class CheckpointCoordinator:
  """At most one checkpoint is open; it is complete or it does not exist."""

  def __init__(self, run_dir: str, shard_parts: Iterable[str], kept: int,
               last_committed: int = -1):
    """For a run whose workers write `shard_parts`; keeps the newest `kept`."""
    self._run_dir = run_dir
    self._shard_parts = frozenset(shard_parts)
    self._kept = kept
    self._changed = threading.Condition()
    self._open_step = -1
    self._records: dict[str, checkpointing.PartRecord] = {}
    self._committed_time = time.monotonic()
    self.last_committed = last_committed

  @property
  def open_step(self) -> int:
    """The meta-step of the open checkpoint, or -1."""
    return self._open_step

  @property
  def seconds_since_commit(self) -> float:
    return time.monotonic() - self._committed_time

  def open(self, meta_step: int, own_parts: Mapping[str, bytes]) -> None:
    """Begins a checkpoint with the parts that the learner has itself.

    One that is still open and of an earlier step is given up.
    """
    with self._changed:
      if self._open_step not in (-1, meta_step):
        logging.warning('checkpoint %d was never completed; missing: %s',
                        self._open_step, ', '.join(self._missing()))
        self._records = {}
      self._open_step = meta_step
      for name, data in own_parts.items():
        self._records[name] = checkpointing.write_part(
            self._run_dir, meta_step, name, data)
      self._commit_if_complete()

  def record(self, meta_step: int,
             record: checkpointing.PartRecord) -> bool:
    """Takes note of a part that was written; False if it is not awaited."""
    with self._changed:
      if meta_step != self._open_step or record.name not in self._shard_parts:
        return False
      self._records[record.name] = record
      self._commit_if_complete()
      return True

  def wait(self, timeout_s: float) -> list[str]:
    """Waits for the open checkpoint; returns the parts still missing."""
    with self._changed:
      self._changed.wait_for(lambda: self._open_step == -1, timeout_s)
      return [] if self._open_step == -1 else self._missing()

  def _missing(self) -> list[str]:
    return sorted(self._shard_parts - self._records.keys())

  def _commit_if_complete(self) -> None:
    if self._missing():
      return
    checkpointing.commit(self._run_dir, self._open_step,
                         list(self._records.values()), self._kept)
    self.last_committed = self._open_step
    self._committed_time = time.monotonic()
    self._open_step = -1
    self._records = {}
    self._changed.notify_all()
