"""Runs a configured run under one of the launch types, and shows it."""

import collections
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from typing import Any, Optional

from envs import optimal_returns
from launch import process_environment
from lpg_distributed import config as config_lib
from lpg_distributed.nodes import checkpointing
from lpg_distributed.nodes import loggers
from lpg_distributed.nodes import progress
from lpg_distributed.nodes import rpc
from lpg_distributed.nodes import run_directory

_LAST_LINES = 20
_STOP_S = 60  # what nodes get to write the last checkpoint
_POLL_S = 1.
# How a node ends that Launchpad has stopped.
_STOPPED = (None, 0, -signal.SIGTERM, -signal.SIGALRM)


class _Interrupt:
  """Remembers which signal ended the run, and sets an event."""

  def __init__(self):
    self.stop = threading.Event()
    self.signal = 0

  def __enter__(self):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, signal.SIG_DFL)

  def _handle(self, number, frame):
    del frame
    self.signal = self.signal or number
    self.stop.set()
    if number == signal.SIGHUP:  # Launchpad does not know it.
      os.kill(os.getpid(), signal.SIGTERM)

  @property
  def exit_code(self) -> int:
    return 128 + self.signal if self.signal else 0


def _last_row(run_dir: str) -> Optional[dict[str, Any]]:
  rows = collections.deque(loggers.read_metrics(run_dir, 'evaluator'), 1)
  return rows[0] if rows else None


def run(config: config_lib.Config, launch_type: str,
        run_dir: run_directory.RunDirectory,
        checkpoint: Optional[checkpointing.Checkpoint],
        bandit_port: int = 0) -> int:
  """Runs to the end or to a signal; returns the exit code."""
  estimator = progress.Estimator(
      config.run.meta_steps, config.environments, optimal_returns.optima())
  with _Interrupt() as interrupt, progress.Progress() as display:
    def watch(status):
      display.show(estimator.view(status, _last_row(run_dir.path)))
    if launch_type == 'embedded':
      from lpg_distributed import local_loop
      local_loop.run(config, run_dir.path, checkpoint, interrupt.stop, watch)
      return interrupt.exit_code
    return _run_program(config, launch_type, run_dir, checkpoint, bandit_port,
                        watch, interrupt.stop) or interrupt.exit_code


def _run_program(config, launch_type, run_dir, checkpoint, bandit_port,
                 watch, stop) -> int:
  logs = os.path.join(run_dir.path, 'logs')
  os.environ['LAUNCHPAD_LOGGING_DIR'] = logs  # Read when it is imported.
  from absl import flags
  import launchpad as lp
  from launchpad.nodes.python import local_multi_processing

  from lpg_distributed import programs
  flags.FLAGS.lp_termination_notice_secs = _STOP_S
  # Passing flags to nodes needs this one, which the released build lacks.
  flags.DEFINE_multi_string('lp_dummy_config', [], 'unused',
                            allow_override=True)

  launch = programs.Launch(run_dir.path, checkpoint,
                           own_processes=launch_type == 'local_mp')
  program, handles = programs.make_program(config, launch, bandit_port)
  temporary = os.path.join(run_dir.path, 'tmp')
  os.makedirs(temporary, exist_ok=True)
  tempfile.tempdir = temporary  # Launchpad leaves its files behind.
  resources = {}
  if launch.own_processes:
    for label in program.groups:
      variables = (process_environment.SERVICE if label in programs.SERVICES
                   else process_environment.WORKER)
      resources[label] = local_multi_processing.PythonProcess(
          args={'lp_termination_notice_secs': _STOP_S},
          env={**process_environment.with_packages(variables),
               'TMPDIR': temporary})

  # Launchpad prints to the standard output, also from signal handlers.
  with open(os.path.join(logs, 'launchpad.log'), 'a',
            encoding='utf-8') as log, contextlib.redirect_stdout(log):
    manager = lp.launch(program, launch_type, local_resources=resources,
                        terminal='output_to_files')
    # Launchpad does not say which node failed; its table of nodes does.
    nodes = {label: list(workers)
             for label, workers in manager._active_workers.items()}
    run_dir.write_json(run_directory.LAUNCH_FILE, {
        'addresses': {label: handle.dereference().address
                      for label, handle in handles.items()},
        'processes': {label: [worker.pid for worker in workers]
                      for label, workers in nodes.items()
                      if launch.own_processes}})
    done = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(handles[programs.META_LEARNER], watch, done))
    watcher.start()
    if stop.is_set():  # A signal came before Launchpad listened to it.
      os.kill(os.getpid(), signal.SIGTERM)
    try:
      failed = _wait(manager, [label for label in nodes if label.split('/')[0]
                               == programs.META_LEARNER])
    finally:
      done.set()
      watcher.join()
      os.remove(os.path.join(run_dir.path, run_directory.LAUNCH_FILE))
      shutil.rmtree(temporary, ignore_errors=True)
  if failed:
    _explain(failed, nodes, logs)
    return 1
  return 0


def _wait(manager, learner: list[str]) -> Optional[Exception]:
  """Waits for the learner, then stops the rest; returns what went wrong."""
  failed = None
  try:
    manager.wait(learner)
  except Exception as error:  # Launchpad stops the others by itself.
    failed = error
    manager.wait(raise_error=False)
  else:
    manager.stop_and_wait()
  return failed


def _watch(handle, watch, done: threading.Event) -> None:
  """Shows the learner's status until `done`; its silence is no error."""
  handle.set_client_kwargs(call_timeout=5.)
  learner = rpc.Client(handle.dereference(), 'meta_learner', done,
                       patience_s=0.)
  while not done.wait(_POLL_S):
    with contextlib.suppress(rpc.RpcError, rpc.Stopped):
      watch(learner.get_status())


def _explain(error, nodes, logs: str) -> None:
  """Says which nodes died and shows the last lines of their logs."""
  found = False
  for name, workers in nodes.items():
    codes = [worker.returncode for worker in workers
             if getattr(worker, 'returncode', 0) not in _STOPPED]
    if not codes:
      continue
    found = True
    path = os.path.join(logs, name)
    print(f'node {name} ended with code {codes[0]}; the end of {path}:',
          file=sys.stderr)
    with open(path, encoding='utf-8', errors='replace') as f:
      lines = (line for line in f if 'Waiting for workers' not in line)
      for line in collections.deque(lines, _LAST_LINES):
        print('  ' + line.rstrip(), file=sys.stderr)
  if not found:
    print(f'error: {error}', file=sys.stderr)
