"""Standard streams that tolerate a closed terminal or pipe.

A long run must not end because its terminal or the other end of a pipe was
closed. Output that cannot be written is dropped.
"""

import errno
import os
import sys
from typing import Any

# Errors of a stream without a reader; a full disk is another error.
_GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ECONNRESET)


class TolerantStream:
  """A text stream that drops output when its reader is gone."""

  def __init__(self, stream: Any):
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    try:
      return self._stream.write(text)
    except OSError as error:
      self._drop(error)
      return len(text)

  def writelines(self, lines) -> None:
    for line in lines:
      self.write(line)

  def flush(self) -> None:
    try:
      self._stream.flush()
    except OSError as error:
      self._drop(error)

  def _drop(self, error: OSError) -> None:
    """Redirects the stream and its buffer to the null device."""
    if error.errno not in _GONE:
      raise error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, self._stream.fileno())
    os.close(nowhere)


def make_tolerant() -> None:
  """Makes the standard streams of this process tolerant.

  Closed descriptors are opened on the null device. Otherwise the next file that
  is opened would get their number, and output would be written to it.
  """
  for descriptor in (0, 1, 2):
    try:
      os.fstat(descriptor)
    except OSError:
      nowhere = os.open(os.devnull, os.O_RDWR)
      if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
      else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
  for descriptor, name in ((1, 'stdout'), (2, 'stderr')):
    stream = getattr(sys, name)
    if isinstance(stream, TolerantStream):
      continue
    if stream is None:  # It was closed when Python started.
      stream = open(descriptor, 'w', encoding='utf-8', closefd=False)
    if hasattr(stream, 'reconfigure'):
      # Characters that the locale lacks are shown as numbers.
      stream.reconfigure(errors='backslashreplace')
    setattr(sys, name, TolerantStream(stream))
