"""Runs a list of Atari jobs under a launch type, and shows their progress."""

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from typing import Any, Mapping, Optional, Sequence

from lpg_distributed.launch import process_environment
from lpg_distributed.launch import stopping
from lpg_distributed.launch.local import local_launchpad
from lpg_distributed.meta_testing import worker as worker_lib

_POLL_S = 0.5
_LINE_PERIOD_S = 10.


def work(tasks: Sequence[worker_lib.JobTask], threads: int) -> int:
  """Runs a worker in this process; returns the exit code."""
  with stopping.Stopping(second_ends=False) as interrupt:
    failed = worker_lib.Worker(tasks, interrupt.event, threads).work()
    return interrupt.exit_code or (1 if failed else 0)


def run(launch_type: str, tasks: Sequence[worker_lib.JobTask], root: str,
        processes: int, threads: int, arguments: Sequence[str]) -> int:
  """Runs all jobs, or until a signal; returns the exit code.

  Args:
    launch_type: `embedded`, `processes` or `local_mp`.
    tasks: the jobs and their directories.
    root: directory of all results.
    processes: number of workers.
    threads: threads per worker.
    arguments: arguments of the command, for the processes.

  Raises:
    ResultError: a directory holds another job. No job was started.
  """
  done = sum(map(worker_lib.is_done, tasks))
  print(f'{len(tasks)} jobs, {done} done before; results in '
        f'{os.path.relpath(root)}', file=sys.stderr, flush=True)
  os.makedirs(root, exist_ok=True)
  with stopping.Stopping(second_ends=False) as interrupt:
    if done < len(tasks):
      watcher = Watcher(tasks)
      if launch_type == 'embedded':
        _run_here(tasks, threads, interrupt.event, watcher)
      elif launch_type == 'processes':
        _run_processes(processes, threads, arguments, interrupt, watcher)
      else:
        _run_program(tasks, root, processes, threads, interrupt, watcher)
  return interrupt.exit_code or report(tasks)


def report(tasks) -> int:
  """Prints which jobs are not done and why; returns 1 if there are any."""
  left = [task for task in tasks if not worker_lib.is_done(task)]
  print(f'{len(tasks) - len(left)} of {len(tasks)} jobs are done',
        file=sys.stderr)
  for task in left:
    error = worker_lib.read_error(task)
    if error is not None:
      print(f'{os.path.relpath(task.directory)} failed: {error}',
            file=sys.stderr)
  if left:
    print('the same command resumes', file=sys.stderr)
  return 1 if left else 0


def _run_here(tasks, threads, stop, watcher) -> None:
  worker = worker_lib.Worker(tasks, stop, threads)
  thread = threading.Thread(target=worker.work, daemon=True)
  thread.start()
  while thread.is_alive():
    thread.join(_POLL_S)
    watcher.show()


def _run_processes(processes, threads, arguments, interrupt, watcher) -> None:
  """Runs the same command several times, each as a worker."""
  command = [sys.executable, '-m', 'lpg_distributed', 'atari', *arguments,
             '--worker', f'--threads={threads}', f'--processes={processes}']
  environment = process_environment.environment(process_environment.WORKER)
  # In sessions of their own, so that they get a Ctrl-C from this process only.
  children = [subprocess.Popen(command, env=environment,
                               start_new_session=True)
              for _ in range(processes)]
  try:
    while not interrupt.event.wait(_POLL_S):
      watcher.show()
      if all(child.poll() is not None for child in children):
        return
  finally:
    for child in children:
      if child.poll() is None:
        child.terminate()
    deadline = time.monotonic() + local_launchpad.STOP_S
    for child in children:
      try:
        child.wait(max(0., deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _run_program(tasks, root, processes, threads, interrupt, watcher) -> None:
  """Runs a Launchpad program in which each worker is a node."""
  logs = os.path.join(root, 'logs')
  os.makedirs(logs, exist_ok=True)
  lp = local_launchpad.load(logs)
  from lpg_distributed import atari_program

  program = atari_program.make_program(tasks, processes, threads)
  temporary = os.path.join(root, f'launch_{secrets.token_hex(4)}')
  resources = {atari_program.ATARI_EVALUATOR: local_launchpad.node_process(
      {**process_environment.with_packages(process_environment.WORKER),
       'TMPDIR': temporary})}
  done = threading.Event()

  def watch():
    while not done.wait(_POLL_S):
      watcher.show()

  thread = threading.Thread(target=watch)
  # Launchpad prints to standard output, also from signal handlers.
  path = os.path.join(logs, 'launchpad.log')
  with local_launchpad.temporary_files(temporary), (
      open(path, 'a', encoding='utf-8')) as log, (
      contextlib.redirect_stdout(log)):
    manager = local_launchpad.launch(lp, program, 'local_mp', resources,
                                     interrupt)
    thread.start()
    try:
      manager.wait()
    except Exception as error:  # pylint: disable=broad-except
      print(f'a node has failed: {error}; see {os.path.relpath(logs)}',
            file=sys.stderr)
    finally:
      done.set()
      thread.join()


class Watcher:
  """Prints a line for each running job at intervals."""

  def __init__(self, tasks: Sequence[worker_lib.JobTask]):
    self._tasks = tasks
    self._time = time.monotonic()
    self._shown: dict[str, Any] = {}
    # Removes the status files of an earlier launch.
    for task in tasks:
      self._shown[task.directory] = worker_lib.read_status(task)

  def show(self) -> None:
    """Prints a line per running job, unless the last call was recent."""
    if time.monotonic() - self._time < _LINE_PERIOD_S:
      return
    self._time = time.monotonic()
    lines = []
    states = []
    for task in self._tasks:
      status = worker_lib.read_status(task)
      states.append((status or {}).get('state'))
      if status is not None and status != self._shown.get(task.directory):
        self._shown[task.directory] = status
        lines.append(_line(task, status))
    if lines:
      lines[-1] += f'; {states.count("done")} of {len(states)} jobs done'
      print('\n'.join(lines), file=sys.stderr, flush=True)


def _line(task: worker_lib.JobTask, status: Mapping[str, Any]) -> str:
  job = task.job
  mean: Optional[float] = status.get('last_return')
  left: Optional[float] = status.get('seconds_left')
  return (f'{time.strftime("%H:%M:%S")} {job.environment} {job.rule} seed '
          f'{job.seeds[0]}: {status["state"]}, '
          f'{status.get("env_steps", 0) * 4:,} of {job.env_steps * 4:,} frames,'
          f' {status.get("env_steps_per_s", 0.) * 4:.0f} frames/s, return '
          f'{"-" if mean is None else format(mean, ".3g")}, '
          + ('-' if left is None else f'{left / 60:.0f} min left'))
