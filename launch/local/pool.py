"""Tasks in processes of one thread each, as many at once as processors."""

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


class Task(NamedTuple):
  """A call that leaves its result in files, and may be repeated."""
  name: str
  function: Callable[..., None]  # of a module, not of `__main__`'s inside
  arguments: tuple[Any, ...]


_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_PATIENCE_S = 5.  # for a killed process to be gone


def _die_with(parent: int) -> None:
  """Has Linux kill this process when its parent ends, however that ends."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # It has ended already.
    os._exit(1)


def work(tasks: Sequence[Task], processes: Optional[int],
         stop: threading.Event) -> bool:
  """Does all tasks; says on the standard error what is done.

  Args:
    tasks: the long ones first.
    processes: how many; None: one for each processor.
    stop: once set, what runs is killed; its files are whole or not there.

  Returns:
    Whether all are done. What goes wrong in one is raised here.
  """
  begin, done = time.monotonic(), 0
  pool = futures.ProcessPoolExecutor(
      processes or len(os.sched_getaffinity(0)),
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
    # An idle worker would wait for a parent that leaves without a word.
    for worker in workers:
      worker.kill()
    for worker in workers:
      worker.join(_PATIENCE_S)
