"""Notices an environment that does not answer.

An environment is code of the user and may wait for ever. Calls of it are made
within `Answers.wait`. A thread says in one line which call has not returned.
Once the job is to stop, it gives such a call some seconds, and then ends what
cannot be ended otherwise.
"""

import contextlib
import threading
import time
from typing import Callable, Iterable, Iterator, Optional

from absl import logging

SILENT_S = 30.  # until the first line; the next come after twice the time
# For a call that has not returned when the job is to stop. Without it an
# environment that is merely slow would lose its last steps.
GRACE_S = 10.
_POLL_S = 0.2


def _longest(calls: Iterable[tuple[str, float]]) -> tuple[str, float]:
  what, since = min(calls, key=lambda call: call[1], default=('', None))
  return what, 0. if since is None else time.monotonic() - since


class Answers:
  """Calls that have not returned; a context that holds a thread."""

  def __init__(self, name: str, stop: threading.Event,
               say: Callable[[str], None] = logging.warning,
               leave: Optional[Callable[[], None]] = None):
    """Prepares, without starting the thread.

    Args:
      name: the environment.
      stop: set once the job is to stop.
      say: called with a line about a call that has not returned.
      leave: ends the process; called if the main thread waits for a call
        `GRACE_S` after `stop` was set. None: it waits on.
    """
    self._name, self._stop, self._say, self._leave = name, stop, say, leave
    self._calls: dict[int, tuple[str, float]] = {}  # by thread
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> 'Answers':
    self._thread.start()
    return self

  def __exit__(self, *exc_info) -> None:
    self._closed.set()
    self._thread.join()

  @contextlib.contextmanager
  def wait(self, what: str) -> Iterator[None]:
    """A context within which this thread waits for the call named `what`."""
    thread = threading.get_ident()
    self._calls[thread] = what, time.monotonic()
    try:
      yield
    finally:
      del self._calls[thread]

  def waiting_s(self) -> float:
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
        self._say(self._line(what, seconds) + '; Ctrl-C ends the job')
      if not self._stop.is_set() or self._leave is None:
        continue
      stopped_at = stopped_at or time.monotonic()
      main = calls.get(threading.main_thread().ident)
      if main and time.monotonic() - stopped_at >= GRACE_S:
        self._say(self._line(*_longest([main])) + '; the job ends without it')
        self._leave()

  def _line(self, what: str, seconds: float) -> str:
    return f'{self._name} has not answered for {seconds:.0f} s ({what})'
