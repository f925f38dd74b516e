"""Handles signals, so that a command ends after saving its state."""

import os
import signal
import sys
import threading
from typing import Any, Callable, Iterable, Optional

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


class _Listener:
  """Hears of signals while the main thread is in a call that does not return.

  Python calls handlers in the main thread, between two of its instructions.
  Compiled code may not come back to them, so a thread reads the numbers that
  the interpreter writes to a pipe at once.
  """

  def __init__(self, hear: Callable[[int], None]):
    self._hear = hear
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._before = signal.set_wakeup_fd(
        self._write, warn_on_full_buffer=False)
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()

  def _listen(self) -> None:
    while True:
      for number in os.read(self._read, 100):
        if not number:
          return
        self._hear(number)

  def close(self) -> None:
    signal.set_wakeup_fd(self._before)
    os.set_blocking(self._write, True)
    os.write(self._write, b'\0')  # No signal has this number.
    self._thread.join()
    os.close(self._read)
    os.close(self._write)


class Stopping:
  """Records the first signal and sets `event`."""

  def __init__(self, second_ends: bool = True):
    """`second_ends`: whether the same signal again ends the process."""
    self.event = threading.Event()
    self.signal = 0
    self._second_ends = second_ends
    self._before: dict[int, Any] = {}
    self._ignored: frozenset[int] = frozenset()
    self._listener: Optional[_Listener] = None
    self._heard: list[int] = []

  def __enter__(self) -> 'Stopping':
    self._ignored = ignored()
    self._before = install(self.handle)
    if self._second_ends:
      self._listener = _Listener(self._hear)
    return self

  def __exit__(self, *exc_info) -> None:
    if self._listener is not None:
      self._listener.close()
    restore(self._before)

  def _hear(self, number: int) -> None:
    """Does what `handle` does, in the listener's thread."""
    if number not in self._before:
      return
    if number in self._heard:  # The main thread has not handled the first.
      self.end()
    self._heard.append(number)
    self._note(number)

  def end(self) -> None:
    """Ends the process at once, from any thread."""
    if sys.stderr is not None and sys.stderr.isatty():
      sys.stderr.write('\x1b[?25h')  # Shows the cursor that progress hides.
      sys.stderr.flush()
    os._exit(self.exit_code)

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
    self._note(number)
    if self._second_ends:
      signal.signal(number, signal.SIG_DFL)

  def _note(self, number: int) -> None:
    if not self.signal:  # Within `set`, a second `set` would wait for ever.
      self.signal = number
      self.event.set()

  @property
  def exit_code(self) -> int:
    """0, or the exit code that a shell reports for the signal."""
    return 128 + self.signal if self.signal else 0
