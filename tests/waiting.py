"""Waits on conditions, for tests of processes.

A condition that holds in milliseconds may take a minute on a busy machine, so
the patience is long: only a fault exceeds it.
"""

import subprocess
import time
from typing import Any, Callable

import psutil

PATIENCE_S = 600.


def until(condition: Callable[[], Any], what: str,
          patience_s: float = PATIENCE_S,
          process: subprocess.Popen | None = None,
          said: Callable[[], str] = str) -> Any:
  """Waits until a condition holds; returns what it returned.

  Args:
    condition: asked again and again.
    what: the condition, for the message.
    patience_s: how long to wait.
    process: one that must not end while the condition is waited for.
    said: called for more of the message, for example the end of a log.
  """
  deadline = time.monotonic() + patience_s
  while not (found := condition()):
    if process is not None and process.poll() is not None:
      if found := condition():  # It came about just before the end.
        return found
      raise AssertionError(f'the process ended with code {process.returncode}'
                           f' before: {what}\n{said()}')
    if time.monotonic() > deadline:
      raise AssertionError(f'in {patience_s:g} s not seen: {what}\n{said()}')
    time.sleep(0.02)
  return found


def is_alive(pid: int) -> bool:
  """Whether a process runs; one that nobody has waited for yet does not."""
  try:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:
    return False


def until_gone(pids, patience_s: float = PATIENCE_S) -> None:
  """Waits until none of the processes runs any more."""
  pids = list(pids)
  until(lambda: not any(map(is_alive, pids)), f'the end of {pids}', patience_s)


def lines(path) -> int:
  """The number of whole lines of a file; 0 if it is not there yet."""
  try:
    return path.read_text().count('\n')
  except FileNotFoundError:
    return 0
