"""Signals that end a command, for commands that end at a good moment."""

import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
  """Remembers the first signal that came, and sets `event`."""

  def __init__(self, second_ends: bool = True):
    """`second_ends`: whether the same signal again ends the process."""
    self.event = threading.Event()
    self.signal = 0
    self._second_ends = second_ends

  def __enter__(self) -> 'Stopping':
    for number in SIGNALS:
      signal.signal(number, self.handle)
    return self

  def __exit__(self, *exc_info) -> None:
    for number in SIGNALS:
      signal.signal(number, signal.SIG_DFL)

  def handle(self, number, frame) -> None:
    """Of a signal; whoever takes the handler's place may call it."""
    del frame
    self.signal = self.signal or number
    self.event.set()
    if self._second_ends:
      signal.signal(number, signal.SIG_DFL)

  @property
  def exit_code(self) -> int:
    """0, or what a shell says of a process that the signal ended."""
    return 128 + self.signal if self.signal else 0
