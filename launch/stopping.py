"""Handles signals, so that a command ends after saving its state."""

import signal
import threading
from typing import Any, Callable, Iterable

_NEEDED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def ignored(numbers: Iterable[int] = SIGNALS) -> frozenset[int]:
  """Which of these signals the process ignores now."""
  return frozenset(number for number in numbers
                   if signal.getsignal(number) == signal.SIG_IGN)


def install(handler: Callable[[int, Any], None],
            numbers: Iterable[int] = SIGNALS) -> dict[int, Any]:
  """Handles signals, except those that are ignored.

  `nohup` ignores SIGHUP, and `&` in a script ignores SIGINT and SIGQUIT. Who
  started the program so wants them to have no effect.

  Returns:
    The handlers before, for `restore`.
  """
  numbers = tuple(numbers)
  kept = ignored(numbers)
  return {number: signal.signal(number, handler) for number in numbers
          if number not in kept}


def restore(handlers: dict[int, Any]) -> None:
  """Restores the handlers that `install` returned."""
  for number, handler in handlers.items():
    # None: it was not installed from Python, so it cannot be restored.
    signal.signal(number, signal.SIG_DFL if handler is None else handler)


def take_back() -> None:
  """Resets inherited signal settings under which the program cannot work.

  If SIGCHLD is ignored, the exit codes of children are lost. If signals are
  blocked, nothing can end the program.
  """
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEEDED)


class Stopping:
  """Records the first signal and sets `event`."""

  def __init__(self, second_ends: bool = True):
    """`second_ends`: whether the same signal again ends the process."""
    self.event = threading.Event()
    self.signal = 0
    self._second_ends = second_ends
    self._before: dict[int, Any] = {}
    self._ignored: frozenset[int] = frozenset()

  def __enter__(self) -> 'Stopping':
    self._ignored = ignored()
    self._before = install(self.handle)
    return self

  def __exit__(self, *exc_info) -> None:
    restore(self._before)

  def replace(self, handler: Callable[[int, Any], None]) -> None:
    """Handles the signals otherwise, until the end of the context.

    For use after a library has installed handlers of its own. Signals that
    were ignored at the beginning are ignored again.
    """
    for number in SIGNALS:
      signal.signal(number, signal.SIG_IGN if number in self._ignored
                    else handler)

  def handle(self, number, frame) -> None:
    """Records a signal; a handler that replaces this one may call it."""
    del frame
    if not self.signal:  # Within `set`, a second `set` would wait for ever.
      self.signal = number
      self.event.set()
    if self._second_ends:
      signal.signal(number, signal.SIG_DFL)

  @property
  def exit_code(self) -> int:
    """0, or the exit code that a shell reports for the signal."""
    return 128 + self.signal if self.signal else 0
