"""Writes a byte a second to a pipe, to show that this process is not stuck.

The supervisor reads the other end of the pipe. The writing thread needs
Python's interpreter lock, so the heartbeat also stops if the lock is held for
ever.
"""

import contextlib
import os
import threading
import time

VARIABLE = 'LPG_HEARTBEAT_FD'
_PERIOD_S = 1.


def start() -> None:
  """Starts the heartbeat if a supervisor listens; later calls do nothing."""
  descriptor = os.environ.pop(VARIABLE, None)
  if descriptor is None:
    return
  threading.Thread(target=_beat, args=(int(descriptor),), daemon=True,
                   name='heartbeat').start()


def _beat(descriptor: int) -> None:
  os.set_blocking(descriptor, False)
  with contextlib.suppress(BrokenPipeError):
    while True:
      with contextlib.suppress(BlockingIOError):  # The supervisor is stopped.
        os.write(descriptor, b'.')
      time.sleep(_PERIOD_S)
