"""Workers that share a list of jobs.

A worker locks the directory of the job that it runs. The lock is released when
its process ends. So if a worker is killed, another one resumes its job.
"""

import contextlib
import json
import os
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from absl import logging

from lpg_distributed import files
from lpg_distributed.meta_testing import jobs as jobs_lib
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import run_record
from lpg_distributed.meta_testing import session

ERROR_FILE, STATUS_FILE = 'error.txt', 'status.json'
_STATUS_PERIOD_S = 2.


class JobTask(NamedTuple):
  """A job and the directory of its files."""
  job: jobs_lib.Job
  directory: str


def is_done(task: JobTask) -> bool:
  """Returns whether the task is done.

  Raises:
    ResultError: the directory holds another job.
  """
  path = os.path.join(task.directory, results.FILE)
  if not os.path.exists(path):
    return False
  found = results.read(path)
  results.check_same(path, found.header, results.make_header(
      task.job, found.header['frames_per_step']))
  last = {row['seed']: row for row in found.rows}
  return all(seed in last and (last[seed].get('diverged') or
                               last[seed]['env_steps'] >= task.job.env_steps)
             for seed in task.job.seeds)


def read_status(task: JobTask) -> Optional[Mapping[str, Any]]:
  """Returns the last status of a task; None if there is none."""
  try:
    found = files.read_object(os.path.join(task.directory, STATUS_FILE))
  except (OSError, ValueError):
    return None
  state = found.pop('state', None)
  if not isinstance(state, str) or not all(
      value is None or isinstance(value, (int, float))
      for value in found.values()):
    return None
  return {**found, 'state': state}


def read_error(task: JobTask) -> Optional[str]:
  """Returns the error of a task's last attempt; None if it did not fail."""
  try:
    return files.read_text(os.path.join(task.directory, ERROR_FILE)).strip()
  except (OSError, ValueError):
    return None


class Worker:
  """One of several workers that share a list of tasks."""

  def __init__(self, tasks: Sequence[JobTask], stop: threading.Event,
               num_threads: int = 1,
               run: Callable[..., bool] = session.run):
    """Prepares the worker, without starting work.

    Args:
      tasks: all tasks; the same list for every worker.
      stop: once set, the current job writes a checkpoint and work ends.
      num_threads: threads per job.
      run: see `session.run`.
    """
    self._tasks = tasks
    self._stop = stop
    self._num_threads = num_threads
    self._run = run

  def work(self) -> int:
    """Runs jobs until all are done or `stop` is set; counts failed jobs.

    A failed job does not stop the others. Its error is written to its
    directory, and the next launch tries it again.

    Returns:
      The number of jobs that failed.
    """
    failed = 0
    for task in self._tasks:
      if self._stop.is_set():
        break
      try:
        if not is_done(task):
          self._run_task(task)
      except session.JobInUseError:  # Another worker runs this job.
        continue
      except Exception as error:  # pylint: disable=broad-except
        failed += self._record_failure(task, error)
    return failed

  def _run_task(self, task: JobTask) -> None:
    with contextlib.suppress(FileNotFoundError):
      os.remove(os.path.join(task.directory, ERROR_FILE))
    last = [0.]

    def watch(status: run_record.Status) -> None:
      now = time.monotonic()
      if now - last[0] >= _STATUS_PERIOD_S:
        last[0] = now
        _write_status(task, {'state': 'training', **status._asdict()})

    done = self._run(task.job, task.directory, self._stop, watch,
                     num_threads=self._num_threads)
    _write_status(task, {**(read_status(task) or {}),
                         'state': 'done' if done else 'stopped'})

  def _record_failure(self, task: JobTask, error: Exception) -> int:
    """Logs an error and writes it to the task's directory; returns 1."""
    message = f'{type(error).__name__}: {" ".join(str(error).split())}'
    logging.warning('%s failed: %s', task.directory, message)
    os.makedirs(task.directory, exist_ok=True)
    files.write_whole(os.path.join(task.directory, ERROR_FILE),
                      (message + '\n').encode())
    return 1


def _write_status(task: JobTask, status: Mapping[str, Any]) -> None:
  path = os.path.join(task.directory, STATUS_FILE)
  files.write_whole(path, json.dumps(status).encode())
