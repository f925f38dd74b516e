"""From a program and a resource file to a job: what the commands call."""

import os
import sys
from typing import Any, Callable, Optional, Sequence

from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import checks
from lpg_distributed.launch.cluster.slurm import commands
from lpg_distributed.launch.cluster.slurm import follow
from lpg_distributed.launch.cluster.slurm import submit
from lpg_distributed.launch.cluster.slurm import work as work_lib
from lpg_distributed.launch.local import local_launchpad

_SERVERS = ('meta_learner', 'gradient_queue', 'bandit_server')
_WORKER, _EVALUATOR = 'lifetime_worker', 'atari_evaluator'


def num_workers(config, job: resources.Job) -> Optional[int]:
  """How many workers the file has room for; None: it does not say."""
  counts = {**dict.fromkeys(_SERVERS, 1),
            _EVALUATOR: int(config.evaluator.enabled)}
  return resources.tasks_of(job, _WORKER, counts)


def make_config(make: Callable[[Optional[int]], Any],
                job: resources.Job) -> Any:
  """A configuration with as many workers as the file has room for.

  Args:
    make: makes it from a number of workers, or None; see `config_flags`.
    job: the resource file.
  """
  return make(num_workers(make(None), job))


def _submit(root: str, job: resources.Job,
            groups: Sequence[resources.Placed], follows: bool) -> int:
  """Submits, says so, and follows if that is wanted."""
  log = os.path.join(root, submit.LOG)
  os.makedirs(os.path.dirname(log), exist_ok=True)
  begin = os.path.getsize(log) if os.path.exists(log) else 0
  job_id = submit.submit(submit.job_dir_of(root), job, groups, log)
  print(f'job {job_id}; its log: {os.path.relpath(log)}', flush=True)
  return follow.follow(job_id, log, begin) if follows else 0


def meta_train(config, run, job: resources.Job, supervision,
               facade: Optional[work_lib.Facade], evaluate: bool,
               follows: bool) -> int:
  """Submits a run of meta-training.

  Args:
    config: of the run.
    run: its directory, held.
    job: the resource file.
    supervision: when a node is given up.
    facade: where outsiders ask the bandit; None: nowhere.
    evaluate: whether the rule is compared with others at the end.
    follows: whether to show the job's log until its end.

  Returns:
    The exit code.

  Raises:
    ResourceError: file, program and cluster do not fit together.
    SlurmError: Slurm is not here, does not answer, or refuses.
  """
  counts = dict.fromkeys(_SERVERS, 1)
  if config.run.num_workers:  # Else the learner has all shards.
    counts[_WORKER] = config.run.num_workers
  if config.evaluator.enabled:
    counts[_EVALUATOR] = 1
  groups = resources.place(job, counts)
  checks.check(groups)
  logs = os.path.join(run.path, 'logs')
  local_launchpad.load(logs)
  from lpg_distributed import programs
  program, _ = programs.make_program(
      config, programs.Launch(run.path, own_processes=True))
  _write(run.path, work_lib.MetaTraining(
      run.path, config, supervision, facade, evaluate), program, job, groups,
         work_lib.about([programs.META_LEARNER], [programs.ATARI_EVALUATOR],
                        programs.SERVICES, supervision, logs, _arguments()),
         config.environments)
  run.close()  # The job's leader takes hold of it.
  return _submit(run.path, job, groups, follows)


def atari(tasks: Sequence[Any], root: str, job: resources.Job, processes: int,
          threads: int, supervision, follows: bool) -> int:
  """Submits jobs of meta-testing; arguments and errors as above."""
  groups = resources.place(job, {_EVALUATOR: processes})
  checks.check(groups)
  logs = os.path.join(root, 'logs')
  os.makedirs(logs, exist_ok=True)
  local_launchpad.load(logs)
  from lpg_distributed import atari_program
  _write(root, work_lib.Atari(tasks, root),
         atari_program.make_program(tasks, processes, threads), job, groups,
         work_lib.about([_EVALUATOR], [], [], supervision, logs, _arguments()))
  return _submit(root, job, groups, follows)


def _arguments() -> list[str]:
  return [f'--lp_termination_notice_secs={local_launchpad.STOP_S}']


def _write(root, work, program, job, groups, about, environments=()) -> None:
  try:
    submit.write_directory(submit.job_dir_of(root), work, program, job, groups,
                           about, environments)
  except OSError as error:
    raise commands.SlurmError(
        f'{submit.job_dir_of(root)} cannot be written: {error.strerror}'
        ) from None


def attach(root: str, follows: bool) -> Optional[int]:
  """What is to be done if a run has a job already.

  Returns:
    None if it has none; else, if it `follows`, the exit code of that.

  Raises:
    SlurmError: it has one, and nobody wants to follow it.
  """
  found = submit.current(root)
  if found is None:
    return None
  job_id, state = found
  if not follows:
    raise commands.SlurmError(
        f'{os.path.relpath(root)} has job {job_id} ({state.name}) already; '
        'wait for it, --follow it, or cancel it (lpg slurm '
        '--run_dir=... --cancel)')
  print(f'job {job_id} is {state.name}', file=sys.stderr, flush=True)
  return follow.follow(job_id, os.path.join(root, submit.LOG), None)
