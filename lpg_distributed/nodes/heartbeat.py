"""Says once a second that this process is not stopped or stuck.

Whoever started the process reads the other end of a pipe; without one nothing
is said. The thread needs Python's interpreter lock like all others, so that a
process whose lock is held forever falls silent too.
"""

import contextlib
import os
import threading
import time

VARIABLE = 'LPG_HEARTBEAT_FD'
_PERIOD_S = 1.


def start() -> None:
  """Begins to beat if there is a listener; a second call does nothing."""
  descriptor = os.environ.pop(VARIABLE, None)
  if descriptor is None:
    return
  threading.Thread(target=_beat, args=(int(descriptor),), daemon=True,
                   name='heartbeat').start()


def _beat(descriptor: int) -> None:
  os.set_blocking(descriptor, False)
  with contextlib.suppress(BrokenPipeError):
    while True:
      with contextlib.suppress(BlockingIOError):  # The listener is stopped.
        os.write(descriptor, b'.')
      time.sleep(_PERIOD_S)
