"""Runs meta-training under a launch type, and shows its progress."""

import collections
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed import files
from lpg_distributed.envs import optimal_returns
from lpg_distributed.launch import process_environment
from lpg_distributed.launch import progress
from lpg_distributed.launch import stopping
from lpg_distributed.launch.local import local_launchpad
from lpg_distributed.nodes import rpc
from lpg_distributed.store import checkpointing
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory
from lpg_distributed.store import run_versions

_LAST_LINES = 20
_POLL_S = 1.
SILENT_S = 60.  # seconds without an answer of the learner before a warning
STATUS_S = 5.  # time limit of a request for the learner's status
DEATHS = os.path.join('logs', 'deaths.jsonl')
_FACADE = 'bandit_facade'
_OPTIONAL = ('atari_evaluator', _FACADE)
_SUPERVISED = os.path.join(os.path.dirname(__file__), 'supervised.sh')
# Exit codes of nodes that Launchpad has stopped.
_STOPPED = (None, 0, -signal.SIGTERM, -signal.SIGALRM)


class Supervision(NamedTuple):
  """When the supervisor of a node kills it or stops restarting it."""
  max_restarts: int = 10  # in a row, each within 30 s of the previous one
  hang_s: float = 60.  # seconds without a heartbeat until a node counts as dead


class FacadeListener(NamedTuple):
  """Listening socket of the bandit's facade; see `facade_process`."""
  listener: socket.socket
  token_file: str = ''
  writable: bool = False


_SUPERVISION = Supervision()


def _last_row(run_dir: str) -> Optional[dict[str, Any]]:
  rows = collections.deque(loggers.read_metrics(run_dir, 'evaluator'), 1)
  return rows[0] if rows else None


def shower(config: config_lib.Config, run_path: str,
           display: progress.ProgressDisplay
           ) -> Callable[[Mapping[str, Any]], None]:
  """Returns a function that shows the learner's status on `display`."""
  estimator = progress.Estimator(
      config.run.meta_steps, config.environments, optimal_returns.optima())
  return lambda status: display.show(
      estimator.view(status, _last_row(run_path)))


def run(config: config_lib.Config, launch_type: str,
        run_dir: run_directory.RunDirectory,
        checkpoint: Optional[checkpointing.Checkpoint],
        supervision: Supervision = _SUPERVISION,
        facade: Optional[FacadeListener] = None) -> int:
  """Runs until the end or a signal; returns the exit code."""
  with stopping.Stopping(second_ends=False) as interrupt, (
      progress.ProgressDisplay()) as display:
    watch = shower(config, run_dir.path, display)
    if launch_type == 'embedded':
      from lpg_distributed import local_loop
      local_loop.run(config, run_dir.path, checkpoint, interrupt.event, watch)
      return interrupt.exit_code
    return _run_program(config, launch_type, run_dir, watch, interrupt,
                        supervision, facade) or interrupt.exit_code


def _supervision(label: str, variables: dict[str, str], run_path: str,
                 supervision: Supervision) -> dict[str, str]:
  """Returns the environment variables of a node and its supervisor."""
  temporary = os.path.join(run_path, 'tmp')
  return {**process_environment.with_packages(variables),
          'TMPDIR': temporary,
          'LPG_NODE': label,
          'LPG_PYTHON': sys.executable,
          'LPG_LAUNCHER_PID': str(os.getpid()),
          'LPG_PIDS': os.path.join(temporary, 'pids'),
          'LPG_DEATHS': os.path.join(run_path, DEATHS),
          'LPG_MAX_RESTARTS': str(supervision.max_restarts),
          'LPG_HANG_S': str(supervision.hang_s),
          # The run continues without a node that only observes it.
          'LPG_OPTIONAL': '1' if label in _OPTIONAL else ''}


def _node_process(label: str, is_service: bool, run_path: str,
                  supervision: Supervision):
  """Returns Launchpad's description of a node's process, under a supervisor."""
  variables = (process_environment.SERVICE if is_service
               else process_environment.WORKER)
  return local_launchpad.node_process(
      _supervision(label, variables, run_path, supervision),
      _absolute_interpreter_path=_SUPERVISED)


def _write_launch_file(run_dir: run_directory.RunDirectory,
                       facade: Optional[FacadeListener],
                       processes: Mapping[str, Sequence[Any]]) -> None:
  """Writes the facade's address and the supervisors of nodes by label."""
  from lpg_distributed import programs
  host, port = facade.listener.getsockname()[:2] if facade else ('', 0)
  run_dir.write_json(run_directory.LAUNCH_FILE, {
      'addresses': {programs.BANDIT_SERVER: f'{host}:{port}'},
      'token_file': facade.token_file if facade else '',
      'supervisors': {label: [worker.pid for worker in workers]
                      for label, workers in processes.items()}})


def start_facade(facade: FacadeListener, bandit: str, run_path: str,
                  supervision: Supervision) -> subprocess.Popen:
  """Starts the facade in its own process, so that it cannot disturb nodes."""
  descriptor = facade.listener.fileno()
  settings = {'socket': descriptor, 'bandit': bandit,
              'token_file': facade.token_file, 'writable': facade.writable}
  with open(os.path.join(run_path, 'logs', _FACADE), 'w',
            encoding='utf-8') as log:
    return subprocess.Popen(
        [_SUPERVISED, '-m', 'lpg_distributed.launch.local.facade_process'],
        pass_fds=[descriptor],
        stdout=log, stderr=log, env={
            **os.environ,
            **_supervision(_FACADE, process_environment.SERVICE, run_path,
                           supervision),
            'LPG_PASS_FDS': str(descriptor),
            'LPG_FACADE': json.dumps(settings)})


class _LogFile(io.TextIOBase):
  """A log file; if the disk fails, lines are lost but no error is raised."""

  def __init__(self, path: str):
    super().__init__()
    self._file = open(path, 'ab', buffering=0)

  def write(self, text: str) -> int:
    with contextlib.suppress(OSError):
      self._file.write(text.encode(errors='replace'))
    return len(text)

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._file.close()
    super().close()


def _run_program(config, launch_type, run_dir, watch, interrupt, supervision,
                 facade) -> int:
  logs = os.path.join(run_dir.path, 'logs')
  lp = local_launchpad.load(logs)
  from lpg_distributed import programs

  launch = programs.Launch(run_dir.path,
                           own_processes=launch_type == 'local_mp')
  program, handles = programs.make_program(config, launch)
  temporary = os.path.join(run_dir.path, 'tmp')
  shutil.rmtree(temporary, ignore_errors=True)  # Left by a killed launch.
  resources = {}
  if launch.own_processes:
    resources = {
        label: _node_process(label, label in programs.SERVICES, run_dir.path,
                             supervision) for label in program.groups}
  deaths = FailureReports(os.path.join(run_dir.path, DEATHS))
  reports = deaths, DeviceReport(run_dir.path)

  # Launchpad prints to standard output, also from signal handlers.
  with local_launchpad.temporary_files(temporary), (
      _LogFile(os.path.join(logs, 'launchpad.log'))) as log, (
      contextlib.redirect_stdout(log)):
    os.mkdir(os.path.join(temporary, 'pids'))
    manager = local_launchpad.launch(lp, program, launch_type, resources,
                                     interrupt)
    # Launchpad does not report which node failed, but has a table of nodes.
    nodes = {label: list(workers)
             for label, workers in manager._active_workers.items()}
    front = facade and start_facade(
        facade, handles[programs.BANDIT_SERVER].dereference().address,
        run_dir.path, supervision)
    _write_launch_file(run_dir, facade, nodes if launch.own_processes else {})
    done = threading.Event()
    learner = handles[programs.META_LEARNER]
    learner.set_client_kwargs(call_timeout=STATUS_S)
    watcher = threading.Thread(
        target=watch_learner,
        args=(learner.dereference(), watch, done,
              lambda: [report.show_new() for report in reports]))
    watcher.start()
    try:
      failed = _wait(manager, [label for label in nodes if label.split('/')[0]
                               == programs.META_LEARNER])
    finally:
      done.set()
      if front:
        front.terminate()
        front.wait()
      watcher.join()
      deaths.show_new()
      with contextlib.suppress(OSError):
        os.remove(os.path.join(run_dir.path, run_directory.LAUNCH_FILE))
  if failed:
    explain(failed, nodes, deaths, logs)
    return 1
  return 0


def _wait(manager, learner: list[str]) -> Optional[Exception]:
  """Waits for the learner, then stops the other nodes; returns the error."""
  failed = None
  try:
    manager.wait(learner)
  except Exception as error:  # Launchpad then stops the other nodes.
    failed = error
    manager.wait(raise_error=False)
  else:
    manager.stop_and_wait()
  return failed


class FailureReports:
  """Prints the deaths of nodes that their supervisors record."""

  def __init__(self, path: str):
    self._path = path
    self._position = os.path.getsize(path) if os.path.exists(path) else 0
    self.of_this_launch: list[dict[str, Any]] = []

  def show_new(self) -> None:
    """Prints the deaths that were recorded since the last call."""
    with contextlib.suppress(FileNotFoundError), open(
        self._path, encoding='utf-8', errors='replace') as f:
      f.seek(self._position)
      for line in iter(f.readline, ''):
        if not line.endswith('\n'):  # Not completely written yet.
          break
        self._position = f.tell()
        with contextlib.suppress(ValueError, KeyError, TypeError):
          self._show(files.parse_json(line))

  def _show(self, death: dict[str, Any]) -> None:
    then = ('it is not started again' if death['final']
            else 'it is started again')
    print(f'node {death["node"]} ended ({death["how"]}) after '
          f'{death["lived_s"]:.0f} s; {then}', file=sys.stderr, flush=True)
    self.of_this_launch.append(death)


class DeviceReport:
  """Prints once that a run goes on on another kind of device."""

  def __init__(self, run_path: str):
    self._path = run_path
    self._device = run_versions.device(run_path)

  def show_new(self) -> None:
    """Prints the change if a worker has recorded one since the last call."""
    now = run_versions.device(self._path)
    if self._device and now and now != self._device:
      print(f'the run goes on on another device, so numbers may differ: '
            f'{self._device} -> {now}', file=sys.stderr, flush=True)
    self._device = now or self._device


def watch_learner(client, watch: Callable[[Mapping[str, Any]], None],
                  done: threading.Event,
                  each_time: Callable[[], None] = lambda: None) -> None:
  """Shows the learner's status until `done`; warns if it does not answer."""
  learner = rpc.Client(client, 'meta_learner', done, patience_s=0.,
                       attempt_s=STATUS_S)
  heard = time.monotonic()
  while not done.wait(_POLL_S):
    each_time()
    with contextlib.suppress(rpc.RpcError, rpc.Stopped):
      watch(learner.get_status())
      heard = time.monotonic()
    if time.monotonic() - heard > SILENT_S:
      heard += SILENT_S
      print(f'the learner has not answered for {SILENT_S:.0f} s; see the logs '
            'of the nodes', file=sys.stderr, flush=True)


def explain(error, nodes, deaths: FailureReports, logs: str) -> None:
  """Prints which nodes died and the last lines of their logs.

  Args:
    error: printed if no node died.
    nodes: supervisors of nodes by label, if they are child processes.
    deaths: deaths in this launch.
    logs: directory of the nodes' logs.
  """
  ended = {death['node']: death['how'] for death in deaths.of_this_launch
           if death['final']}
  for name, workers in nodes.items():
    codes = [worker.returncode for worker in workers
             if getattr(worker, 'returncode', 0) not in _STOPPED]
    if codes:
      ended.setdefault(name, f'its supervisor ended with code {codes[0]}')
  for name, how in ended.items():
    path = os.path.join(logs, name)
    print(f'node {name} ended for good ({how}); the end of {path}:',
          file=sys.stderr)
    with open(path, encoding='utf-8', errors='replace') as f:
      lines = (line for line in f if 'Waiting for workers' not in line)
      for line in collections.deque(lines, _LAST_LINES):
        print('  ' + line.rstrip(), file=sys.stderr)
  if not ended:
    print(f'error: {error}', file=sys.stderr)
