"""TensorBoard's events, written where they arise.

TensorBoardX's own `SummaryWriter` hands events to a thread that ends at the
first error, on a full disk for example; whoever logs then waits for ever.
"""

import os
import time
from typing import Mapping

from tensorboardX import event_file_writer
from tensorboardX import summary
from tensorboardX.proto import event_pb2

_FLUSH_S = 30.


class EventsLogger:
  """Scalars for TensorBoard, in files of a directory of their own."""

  def __init__(self, directory: str, resume_step: int | None = None):
    """Opens a file; TensorBoard is to forget `resume_step` and later ones."""
    os.makedirs(directory, exist_ok=True)
    self._prefix = os.path.join(directory, 'events')
    self._file = None
    self._flushed = time.monotonic()
    if resume_step is not None:
      self._write(event_pb2.Event(
          step=resume_step, session_log=event_pb2.SessionLog(
              status=event_pb2.SessionLog.START)))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """One event.

    Raises:
      OSError: it could not be written; the next one begins another file, since
        this one may have ended within a record.
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
    if self._file is not None:
      self._file.close()
