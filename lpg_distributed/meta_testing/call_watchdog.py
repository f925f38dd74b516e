"""Watches calls of environments that may never return.

An environment is code of the user and may wait for ever. Callers enclose each
call of it in `CallWatchdog.watch`. A thread logs one line about a call that has
not returned for `SILENT_S`. When the job is told to stop, the thread allows
`GRACE_S` for such a call. If the main thread still waits for it then, it ends
the process.
"""

import contextlib
import threading
import time
from typing import Callable, Iterable, Iterator, Optional

from absl import logging

# Time until the first line about a call; it doubles for each further line.
SILENT_S = 30.
# Time that a call gets to return after the job was told to stop. Without it an
# environment that is merely slow would lose its last steps.
GRACE_S = 10.
_POLL_S = 0.2


def _longest(calls: Iterable[tuple[str, float]]) -> tuple[str, float]:
  """Returns the name and the seconds of the call that began first."""
  what, since = min(calls, key=lambda call: call[1], default=('', None))
  return what, 0. if since is None else time.monotonic() - since


class CallWatchdog:
  """The calls that have not returned; a context manager that runs a thread."""

  def __init__(self, name: str, stop: threading.Event,
               warn: Callable[[str], None] = logging.warning,
               end_process: Optional[Callable[[], None]] = None):
    """Prepares the thread, without starting it.

    Args:
      name: name of the environment, for the lines.
      stop: set by the caller to stop the job.
      warn: called with a line about a call that has not returned.
      end_process: ends the process; called if the main thread still waits for
        a call `GRACE_S` after `stop` was set. None: the main thread waits on.
    """
    self._name, self._stop = name, stop
    self._warn, self._end_process = warn, end_process
    self._calls: dict[int, tuple[str, float]] = {}  # by thread
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> 'CallWatchdog':
    self._thread.start()
    return self

  def __exit__(self, *exc_info) -> None:
    self._closed.set()
    self._thread.join()

  @contextlib.contextmanager
  def watch(self, what: str) -> Iterator[None]:
    """Registers a call while this context is open.

    Args:
      what: name of the call, for the lines.
    """
    thread = threading.get_ident()
    self._calls[thread] = what, time.monotonic()
    try:
      yield
    finally:
      del self._calls[thread]

  def longest_call_s(self) -> float:
    """Returns the seconds since the longest call began; 0 without a call."""
    return _longest(self._calls.values())[1]

  def _watch(self) -> None:
    limit, stopped_at = SILENT_S, None
    while not self._closed.wait(_POLL_S):
      calls = dict(self._calls)
      what, seconds = _longest(calls.values())
      if seconds < SILENT_S:
        limit = SILENT_S
      elif seconds >= limit:
        limit *= 2.
        self._warn(self._line(what, seconds) + '; Ctrl-C ends the job')
      if not self._stop.is_set() or self._end_process is None:
        continue
      stopped_at = stopped_at or time.monotonic()
      main = calls.get(threading.main_thread().ident)
      if main and time.monotonic() - stopped_at >= GRACE_S:
        self._warn(self._line(*_longest([main])) + '; the job ends without it')
        self._end_process()

  def _line(self, what: str, seconds: float) -> str:
    return f'{self._name} has not answered for {seconds:.0f} s ({what})'
