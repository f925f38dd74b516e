"""A pool of threads that do not keep the process from ending."""

from concurrent import futures
import queue
import threading
import time
from typing import Any, Callable


class DaemonPool:
  """Like `ThreadPoolExecutor`, but Python does not wait for it at exit.

  So the process can end while a thread is in a call that never returns.
  """

  def __init__(self, num_threads: int):
    self._calls: queue.SimpleQueue = queue.SimpleQueue()
    self._threads = [threading.Thread(target=self._work, daemon=True)
                     for _ in range(num_threads)]
    for thread in self._threads:
      thread.start()

  def submit(self, function: Callable[..., Any], *args: Any) -> futures.Future:
    """Calls `function` in a thread; calls begin in the order of submission."""
    future: futures.Future = futures.Future()
    self._calls.put((future, function, args))
    return future

  def _work(self) -> None:
    while True:
      call = self._calls.get()
      if call is None:
        return
      future, function, args = call
      try:
        future.set_result(function(*args))
      except BaseException as error:  # Raised again by `Future.result`.
        future.set_exception(error)
      del call, future, function, args  # Frees their arrays while waiting.

  def close(self) -> None:
    """Ends the threads after all submitted calls have run."""
    for _ in self._threads:
      self._calls.put(None)

  def join(self, timeout_s: float) -> bool:
    """Waits at most `timeout_s` for the threads; returns whether all ended."""
    deadline = time.monotonic() + timeout_s
    for thread in self._threads:
      thread.join(max(0., deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in self._threads)
