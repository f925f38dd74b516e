"""Standard streams that may be closed, or whose reader may go away.

A run of days must not end because a terminal was closed, or because the other
end of a pipe has seen enough. What cannot be shown is dropped then.
"""

import errno
import os
import sys
from typing import Any

# How a reader that has gone away shows; a full disk is another matter.
_GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ECONNRESET)


class TolerantStream:
  """A text stream that outlives its reader."""

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
    """Sends the rest to nowhere, also what is still in buffers."""
    if error.errno not in _GONE:
      raise error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, self._stream.fileno())
    os.close(nowhere)


def steady() -> None:
  """Makes the standard streams of this process usable, whatever they are.

  Descriptors that are closed are opened to nowhere: the next file that is
  opened would else take their place, and be written into.
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
    if stream is None:  # It was closed when Python began.
      stream = open(descriptor, 'w', encoding='utf-8', closefd=False)
    if hasattr(stream, 'reconfigure'):
      # Of a locale without a character, its number is shown.
      stream.reconfigure(errors='backslashreplace')
    setattr(sys, name, TolerantStream(stream))
