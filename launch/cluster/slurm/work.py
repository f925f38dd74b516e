"""The tasks of a job's leader that depend on the command.

There is a class for meta-training and one for Atari. An object is created where
the job is submitted, pickled, and used on the job's first host.
"""

import contextlib
import json
import os
import socket
import sys
import threading
from typing import Any, NamedTuple, Optional, Sequence

from lpg_distributed.launch.cluster.slurm import places


class FacadeOptions(NamedTuple):
  """Address and options of the bandit's facade; see `facade_process`."""
  host: str
  port: int
  token_file: str
  writable: bool


class MetaTraining:
  """A run of `lpg meta-train`."""

  def __init__(self, run_dir: str, config, supervision,
               facade: Optional[FacadeOptions], evaluate: bool):
    self._run_dir = run_dir
    self._config = config
    self._supervision = supervision
    self._facade = facade
    self._evaluate = evaluate

  def open(self) -> bool:
    """Locks the run; returns False if it is already done."""
    from lpg_distributed.launch.local import runner
    from lpg_distributed.store import checkpointing
    from lpg_distributed.store import run_directory
    self._run = run_directory.RunDirectory.open(self._run_dir, self._config)
    checkpoint = checkpointing.latest(self._run_dir)
    if checkpoint is not None:
      checkpointing.require_same_config(checkpoint, self._config)
    step = 0 if checkpoint is None else checkpoint.meta_step
    begin = f'goes on at meta-step {step}' if step else 'begins'
    print(f'run {self._run_dir} {begin} on {socket.gethostname()}',
          file=sys.stderr, flush=True)
    self._run.update(self._config)
    self._failures = runner.FailureReports(
        os.path.join(self._run_dir, runner.DEATHS))
    self._positions: dict[str, int] = {}
    if step < self._config.run.meta_steps:
      return True
    self.report()
    self.close()
    return False

  def begin(self, attempt_dir: str) -> None:
    """Starts a thread that watches the learner, which may not run yet."""
    self._done = threading.Event()
    self._front = None
    self._thread = threading.Thread(target=self._watch, args=(attempt_dir,),
                                    daemon=True)
    self._thread.start()

  def _client(self, attempt_dir: str, label: str) -> Any:
    """Returns a client of a node; None if the job ends before it starts."""
    import courier

    from lpg_distributed.launch.local import runner
    file = os.path.join(attempt_dir, 'addresses',
                        places.node_file(label, 0) + '.courier')
    while not self._done.wait(0.5):
      address = places.read(file)
      if address is not None:
        return address, courier.Client(address, call_timeout=runner.STATUS_S)
    return None

  def _watch(self, attempt_dir: str) -> None:
    from lpg_distributed import programs
    from lpg_distributed.launch import progress
    from lpg_distributed.launch.local import runner
    if self._facade is not None:
      found = self._client(attempt_dir, programs.BANDIT_SERVER)
      if found:
        self._start_facade(found[0])
    found = self._client(attempt_dir, programs.META_LEARNER)
    if found:
      with progress.ProgressDisplay() as display:
        runner.watch_learner(found[1], runner.shower(
            self._config, self._run_dir, display), self._done)

  def _start_facade(self, bandit: str) -> None:
    from lpg_distributed import programs
    from lpg_distributed.launch.local import facade_process
    from lpg_distributed.launch.local import runner
    from lpg_distributed.store import run_directory
    host, port, token_file, writable = self._facade
    listener = facade_process.listen(host, port)
    os.makedirs(os.path.join(self._run_dir, 'tmp', 'pids'), exist_ok=True)
    self._front = runner.start_facade(
        runner.FacadeListener(listener, token_file, writable), bandit,
        self._run_dir, self._supervision)
    port = listener.getsockname()[1]
    host = socket.gethostname() if host in ('0.0.0.0', '::') else host
    self._run.write_json(run_directory.LAUNCH_FILE, {
        'addresses': {programs.BANDIT_SERVER: f'{host}:{port}'},
        'token_file': token_file, 'supervisors': {}})

  def show(self, attempt_dir: str) -> None:
    """Shows the deaths that supervisors recorded, each in its own file."""
    from lpg_distributed.launch.local import runner
    directory = os.path.join(attempt_dir, 'deaths')
    for name in places.names(directory):
      path = os.path.join(directory, name)
      with contextlib.suppress(OSError), open(path, 'rb') as f:
        f.seek(self._positions.get(path, 0))
        text = f.read()
        whole = text[:text.rfind(b'\n') + 1]
        self._positions[path] = self._positions.get(path, 0) + len(whole)
        if whole:
          with open(os.path.join(self._run_dir, runner.DEATHS), 'ab') as out:
            out.write(whole)
    self._failures.show_new()

  def end(self) -> None:
    """Stops watching the learner."""
    self._done.set()
    self._thread.join(10.)
    if self._front is not None:
      from lpg_distributed.store import run_directory
      self._front.terminate()
      self._front.wait()
      with contextlib.suppress(OSError):
        os.remove(os.path.join(self._run_dir, run_directory.LAUNCH_FILE))

  def explain(self) -> None:
    """Prints which nodes died."""
    from lpg_distributed.launch.local import runner
    runner.explain('see the logs', {}, self._failures,
                   os.path.join(self._run_dir, 'logs'))

  def where_it_ends(self) -> str:
    """Describes the last checkpoint."""
    from lpg_distributed.store import checkpointing
    checkpoint = checkpointing.latest(self._run_dir)
    return ('the run ends before its first checkpoint' if checkpoint is None
            else 'the run ends with its checkpoint of meta-step '
            f'{checkpoint.meta_step}')

  def report(self) -> int:
    """Prints what `lpg meta-train` prints at the end."""
    from lpg_distributed.analysis import report
    if self._evaluate:
      report.evaluate(self._run_dir, self._config)
    for line in report.summarise(self._run_dir, self._config):
      print(line, flush=True)
    return 0

  def close(self) -> None:
    """Releases the lock of the run."""
    self._run.close()


class Atari:
  """Jobs of `lpg atari`."""

  def __init__(self, tasks: Sequence[Any], results_dir: str):
    self._tasks = tasks
    self._results_dir = results_dir

  def open(self) -> bool:
    """Returns False if all jobs are done."""
    from lpg_distributed.launch.local import atari_runner
    from lpg_distributed.meta_testing import worker
    done = sum(map(worker.is_done, self._tasks))
    print(f'{len(self._tasks)} jobs, {done} done before; results in '
          f'{self._results_dir}', file=sys.stderr, flush=True)
    self._watcher = atari_runner.Watcher(self._tasks)
    if done == len(self._tasks):
      self.report()
    return done < len(self._tasks)

  def begin(self, attempt_dir: str) -> None:
    """Does nothing; see `MetaTraining.begin`."""
    del attempt_dir

  def show(self, attempt_dir: str) -> None:
    """Prints the progress of running jobs."""
    del attempt_dir
    self._watcher.show()

  def end(self) -> None:
    pass

  def explain(self) -> None:
    """Prints where the logs are."""
    print(f'see {os.path.join(self._results_dir, "logs")}', file=sys.stderr)

  def where_it_ends(self) -> str:
    """Describes what was saved."""
    return 'what was begun is saved'

  def report(self) -> int:
    """Prints which jobs are not done; returns the exit code."""
    from lpg_distributed.launch.local import atari_runner
    return atari_runner.report(self._tasks)

  def close(self) -> None:
    pass


def about(until: Sequence[str], optional: Sequence[str],
          services: Sequence[str], supervision, logs: str,
          arguments: Sequence[str] = ()) -> dict[str, Any]:
  """Returns fields of a job's file.

  Args:
    until: labels of nodes; the work is done when they have ended.
    optional: labels of nodes that the job continues without.
    services: labels of nodes that use no accelerator.
    supervision: limits of the nodes' supervisors.
    logs: directory of the nodes' logs.
    arguments: arguments of each node's process.
  """
  return json.loads(json.dumps({
      'until': list(until), 'optional': list(optional),
      'services': list(services), 'logs': logs, 'arguments': list(arguments),
      'max_restarts': supervision.max_restarts,
      'hang_s': supervision.hang_s}))
