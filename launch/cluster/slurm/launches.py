"""Submits programs as Slurm jobs; used by the commands."""

import os
import sys
from typing import Any, Callable, Optional, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import checks
from lpg_distributed.launch.cluster.slurm import commands
from lpg_distributed.launch.cluster.slurm import follow
from lpg_distributed.launch.cluster.slurm import submit
from lpg_distributed.launch.cluster.slurm import work as work_lib
from lpg_distributed.launch.local import local_launchpad
from lpg_distributed.store import run_directory

_SERVERS = ('meta_learner', 'gradient_queue', 'bandit_server')
_WORKER, _EVALUATOR = 'lifetime_worker', 'atari_evaluator'


def num_workers(config, job: resources.JobResources) -> Optional[int]:
  """Returns the number of workers in the resource file; None if not given."""
  counts = {**dict.fromkeys(_SERVERS, 1),
            _EVALUATOR: int(config.evaluator.enabled)}
  return resources.tasks_of(job, _WORKER, counts)


def make_config(make: Callable[[Optional[int]], Any],
                job: resources.JobResources) -> Any:
  """Makes a configuration with as many workers as the resource file has.

  Args:
    make: makes a configuration from a number of workers or None; see
      `config_flags`.
    job: the resource file.
  """
  return make(num_workers(make(None), job))


def _submit(root: str, job: resources.JobResources,
            groups: Sequence[resources.PlacedGroup], follows: bool) -> int:
  """Submits a job, prints its number, and follows it if requested."""
  log = os.path.join(root, submit.LOG)
  os.makedirs(os.path.dirname(log), exist_ok=True)
  begin = os.path.getsize(log) if os.path.exists(log) else 0
  job_id = submit.submit(submit.job_dir_of(root), job, groups, log)
  print(f'job {job_id}; its log: {os.path.relpath(log)}', flush=True)
  return follow.follow(job_id, log, begin) if follows else 0


def meta_train(config, run, job: resources.JobResources, supervision,
               facade: Optional[work_lib.FacadeOptions], evaluate: bool,
               follows: bool) -> int:
  """Submits a run of meta-training.

  Args:
    config: configuration of the run.
    run: the locked run directory.
    job: the resource file.
    supervision: limits of the nodes' supervisors.
    facade: settings of the bandit's facade; None: no facade.
    evaluate: whether to evaluate the rule after training.
    follows: whether to show the job's log until it ends.

  Returns:
    The exit code.

  Raises:
    ResourceError: the resource file does not match the program or the cluster.
    SlurmError: Slurm is not installed, does not answer, or refuses.
  """
  counts = dict.fromkeys(_SERVERS, 1)
  if config.run.num_workers:  # If 0, the learner computes all shards.
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
  run.close()  # Releases the lock, which the job's leader takes.
  return _submit(run.path, job, groups, follows)


def atari(tasks: Sequence[Any], root: str, job: resources.JobResources,
          processes: int, threads: int, supervision, follows: bool) -> int:
  """Submits meta-testing jobs; arguments and errors as in `meta_train`."""
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
  """Follows the existing job of a run, if it has one.

  Returns:
    None if the run has no job; else the exit code of following it.

  Raises:
    SlurmError: the run has a job, and `follows` is False.
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


def show_without_job(run_dir: str) -> int:
  """Prints how far a run without a job is; returns 0 if it is done, else 1."""
  text = 'no job of this run is queued or runs'
  try:
    meta_steps = run_directory.read_config(run_dir).run.meta_steps
  except config_lib.ConfigError:  # Results of `lpg atari`, for example.
    print(text)
    return 1
  from lpg_distributed.store import checkpointing  # Imports JAX: seconds.
  checkpoint = checkpointing.latest(run_dir)
  step = 0 if checkpoint is None else checkpoint.meta_step
  if step >= meta_steps:
    print(f'{text}; all {meta_steps} meta-steps are done')
    return 0
  print(f'{text}; the last checkpoint is of meta-step {step} of {meta_steps}; '
        'the same command resumes')
  return 1
