"""Tasks in processes of one thread each, as many at once as processors."""

from concurrent import futures
import multiprocessing
import os
import sys
import threading
import time
from typing import Any, Callable, NamedTuple, Optional, Sequence


class Task(NamedTuple):
  """A call that leaves its result in files, and may be repeated."""
  name: str
  function: Callable[..., None]  # of a module, not of `__main__`'s inside
  arguments: tuple[Any, ...]


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
      mp_context=multiprocessing.get_context('spawn'))
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
    if running:
      for worker in workers:
        worker.kill()
