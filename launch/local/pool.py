"""Runs tasks in processes of one thread each, one per processor."""

from concurrent import futures
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any, Callable, NamedTuple, Optional, Sequence

from lpg_distributed import processors


class PoolTask(NamedTuple):
  """A function call that writes its result to files and can be repeated."""
  name: str
  function: Callable[..., None]  # at the top level of an importable module
  arguments: tuple[Any, ...]


_PR_SET_PDEATHSIG = 1  # an option of Linux's prctl
_PATIENCE_S = 5.  # seconds to wait for a killed process to end


def _die_with(parent: int) -> None:
  """Lets Linux kill this process when its parent ends for any reason."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # The parent has already ended.
    os._exit(1)


def work(tasks: Sequence[PoolTask], processes: Optional[int],
         stop: threading.Event) -> bool:
  """Runs all tasks; prints each finished one to standard error.

  Args:
    tasks: the tasks, the longest first.
    processes: number of processes; None: one per processor.
    stop: once set, running tasks are killed. They write files atomically.

  Returns:
    Whether all tasks are done.

  Raises:
    Exception: a task raised it.
  """
  begin, done = time.monotonic(), 0
  pool = futures.ProcessPoolExecutor(
      processes or processors.count(),
      mp_context=multiprocessing.get_context('spawn'),
      initializer=_die_with, initargs=(os.getpid(),))
  running = {pool.submit(task.function, *task.arguments): task
             for task in tasks}
  try:
    while running and not stop.is_set():
      finished, _ = futures.wait(running, 0.5, futures.FIRST_COMPLETED)
      for job in finished:
        task = running.pop(job)
        job.result()
        done += 1
        print(f'{done}/{len(tasks)} {task.name}, '
              f'{time.monotonic() - begin:.0f} s', file=sys.stderr, flush=True)
    return not running
  finally:
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    # Otherwise an idle worker would outlive its parent.
    for worker in workers:
      worker.kill()
    for worker in workers:
      worker.join(_PATIENCE_S)
