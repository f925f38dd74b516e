"""Writes the metrics of a run: JSON lines, and events for TensorBoard."""

import errno
import json
import math
import os
import sys
from typing import Any, Iterator, Mapping, Sequence

from absl import logging

from lpg_distributed import errors
from lpg_distributed import files

_FULL = (errno.ENOSPC, errno.EDQUOT)


class MetricsError(errors.UserError, ValueError):
  """A file of metrics cannot be read; the message is one line."""


def _path(run_dir: str, name: str) -> str:
  return os.path.join(run_dir, 'metrics', f'{name}.jsonl')


def read_metrics(run_dir: str, name: str,
                 columns: Sequence[str] | None = None
                 ) -> Iterator[dict[str, Any]]:
  """Yields the rows that `MetricsLogger` wrote, without damaged lines.

  Args:
    run_dir: path of the run directory.
    name: name of the file.
    columns: columns of numbers to keep beside `step`, such as `resets`;
      `return/` stands for all that begin so. The rows of a long run have too
      many numbers to keep all of them in memory. None: all.

  Raises:
    MetricsError: there is a file that cannot be read.
  """
  groups = tuple(x for x in columns or () if x.endswith('/'))
  path = _path(run_dir, name)
  try:
    with files.open_regular(path) as f:
      for line in f:
        row = _parse_row(line)
        if row is not None:
          yield row if columns is None else {
              sys.intern(key): value for key, value in row.items()
              if (key == 'step' or key in columns or key.startswith(groups))
              and isinstance(value, (int, float, type(None)))}
  except FileNotFoundError:
    return
  except OSError as error:
    raise MetricsError(f'{path} cannot be read: {error.strerror}') from None


def _parse_row(line: bytes) -> dict[str, Any] | None:
  """Returns the row of a line; None if the line is damaged."""
  try:
    row = files.parse_object(line)
  except ValueError:
    return None
  return row if type(row.get('step')) is int else None


def _cut(path: str, resume_step: int | None) -> None:
  """Removes rows from `resume_step` on, without space for a copy."""
  with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC),
                 'r+b') as f:
    end = 0
    for line in f:
      row = _parse_row(line)
      if not line.endswith(b'\n') or (
          row and resume_step is not None and row['step'] >= resume_step):
        break
      end += len(line)
    f.truncate(end)


class MetricsLogger:
  """Appends rows to a file; after a resume no step occurs twice."""

  def __init__(self, run_dir: str, name: str, resume_step: int | None = None,
               tensorboard: bool = True):
    """Opens `metrics/<name>.jsonl`.

    Args:
      run_dir: path of an opened run directory.
      name: name of the file, and of the group of curves in TensorBoard.
      resume_step: rows of this step and later are removed, since they will be
        written again. None keeps all rows.
      tensorboard: whether to write events for TensorBoard too.
    """
    path = _path(run_dir, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
      # Row by row, since the file of a long run does not fit in memory.
      files.write_whole(path, (
          json.dumps(row).encode() + b'\n'
          for row in read_metrics(run_dir, name)
          if resume_step is None or row['step'] < resume_step))
    except OSError as error:
      if error.errno not in _FULL or not os.path.exists(path):
        raise
      _cut(path, resume_step)
    self._file = files.open_to_append(path)
    self._events = None
    if tensorboard:
      # Imported here, since readers of metrics do not need it.
      from lpg_distributed.store import events
      self._events = events.EventsLogger(
          os.path.join(run_dir, 'metrics', 'tensorboard', name), resume_step)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes one row; numbers that are not finite become null."""
    row = {name: None if isinstance(value, float) and not math.isfinite(value)
           else value for name, value in values.items()}
    try:
      self._file.write(json.dumps({'step': step, **row}) + '\n')
      self._file.flush()
      if self._events is not None:
        self._events.write(step, {name: value for name, value in row.items()
                                  if isinstance(value, (int, float))})
    except OSError as error:  # A full disk, for example.
      logging.error('metrics of step %d are not written: %s', step, error)

  def close(self) -> None:
    """Closes the files."""
    try:
      self._file.close()
      if self._events is not None:
        self._events.close()
    except OSError as error:
      logging.error('the last metrics are not written: %s', error)
