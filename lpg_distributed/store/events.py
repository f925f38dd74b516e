"""Writes TensorBoard's events in the calling thread.

TensorBoardX's `SummaryWriter` passes events to a thread that ends at the first
error, for example on a full disk. Its callers then wait for ever.
"""

import os
import time
from typing import Mapping

from tensorboardX import event_file_writer
from tensorboardX import summary
from tensorboardX.proto import event_pb2

_FLUSH_S = 30.


class EventsLogger:
  """Writes scalars for TensorBoard to files in a directory of their own."""

  def __init__(self, directory: str, resume_step: int | None = None):
    """Opens a file, and lets TensorBoard drop events from `resume_step` on."""
    os.makedirs(directory, exist_ok=True)
    self._prefix = os.path.join(directory, 'events')
    self._file = None
    self._flushed = time.monotonic()
    if resume_step is not None:
      self._write(event_pb2.Event(
          step=resume_step, session_log=event_pb2.SessionLog(
              status=event_pb2.SessionLog.START)))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one event.

    Raises:
      OSError: it could not be written. The next event starts a new file, since
        this one may end with an incomplete record.
    """
    self._write(event_pb2.Event(
        step=step, wall_time=time.time(), summary=summary.Summary(value=[
            summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()])))

  def _write(self, event: event_pb2.Event) -> None:
    try:
      if self._file is None:
        self._file = event_file_writer.EventsWriter(
            self._prefix, f'.{time.time_ns()}')
      self._file.write_event(event)
      if time.monotonic() > self._flushed + _FLUSH_S:
        self._flushed = time.monotonic()
        self._file.flush()
    except OSError:
      self._file = None
      raise

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()
