"""Trains agents on Atari games by a rule, one job for each game and seed.

  lpg atari --games=breakout,pong --rule=a2c --results=runs/a2c
  lpg atari --games=all --eta=eta.npz --results=runs/lpg

Ctrl-C or SIGTERM saves and ends. The same command resumes and skips jobs that
are done. `lpg atari-results` makes tables and figures of the results.
"""

import os
import sys
from typing import Optional

from absl import flags

from lpg_distributed import processors
from lpg_distributed.envs import atari
from lpg_distributed.launch import agent_flags
from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import job_flags

LAUNCH_TYPES = ('embedded', 'processes', 'local_mp', 'slurm')
_FRAMES_PER_STEP = atari.AtariEnvironment.frames_per_step

_GAMES = flags.DEFINE_list('games', [], 'games, as breakout,pong; or all')
_SEEDS = flags.DEFINE_list('seeds', ['0'], 'seeds, one job each, as 0,1,2')
_FRAMES = flags.DEFINE_integer(
    'frames', 2_000_000, 'frames of the emulator in each job; the paper: 2e8')
_agent_arguments = agent_flags.define()
_PRESET = flags.DEFINE_string('preset', 'dm_noop', ' or '.join(atari.PRESETS))
_NUM_ENVS = flags.DEFINE_integer('num_envs', 30, 'parallel emulators '
                                 'of each job')
_RESULTS = flags.DEFINE_string('results', None, 'the directory of all results')
_LAUNCH_TYPE = flags.DEFINE_string(
    'launch_type', 'processes', 'embedded: one job after the other in this '
    'process; processes: several at once; local_mp: the same as a Launchpad '
    'program; slurm: the same on a cluster')
_PROCESSES = flags.DEFINE_integer(
    'processes', None, 'number of processes; default: that of processors or of '
    'jobs, whichever is smaller')
_THREADS = flags.DEFINE_integer(
    'threads', None, 'threads of each process; default: processors divided by '
    'processes')
_load_resources, _FOLLOW = job_flags.define()
_WORKER = flags.DEFINE_bool('worker', False, 'used by the program itself')


def _positive(name: str, value: int) -> int:
  if value < 1:
    raise command.UsageError(f'--{name} is {value}; allowed: 1 and more')
  return value


def _or(name: str, value: Optional[int], default: int) -> int:
  return default if value is None else _positive(name, value)


def _games() -> list[str]:
  names = _GAMES.value
  if not names:
    raise command.UsageError('--games is missing; allowed: all, or some of '
                             f'{", ".join(atari.games())}')
  if names == ['all']:
    return list(atari.games())
  for name in names:
    try:
      atari.check_game(name)
    except ValueError as error:
      raise command.UsageError(f'--games: {error}') from None
  return list(dict.fromkeys(names))


def make_tasks(root: str):
  """Makes the tasks that the flags name; raises UserError."""
  from lpg_distributed.meta_testing import jobs
  from lpg_distributed.meta_testing import worker
  if _PRESET.value not in atari.PRESETS:
    raise command.UsageError(f'--preset is {_PRESET.value!r}; allowed: '
                             f'{", ".join(atari.PRESETS)}')
  frames = _positive('frames', _FRAMES.value)
  tasks = []
  for game in _games():
    for seed in dict.fromkeys(command.parse_seeds(_SEEDS.value)):
      job = jobs.make_job(
          f'atari/{game}', seeds=[seed],
          env_steps=-(-frames // _FRAMES_PER_STEP), num_envs=_NUM_ENVS.value,
          preset=_PRESET.value, **_agent_arguments())
      tasks.append(worker.JobTask(
          job, os.path.join(root, game, f'{job.rule}_seed{seed}')))
  return tasks


def _submit(tasks, root: str, job: resources.JobResources) -> int:
  from lpg_distributed.launch.cluster.slurm import launches
  from lpg_distributed.launch.local import atari_runner
  from lpg_distributed.launch.local import runner
  from lpg_distributed.meta_testing import worker
  code = launches.attach(root, _FOLLOW.value)
  if code is not None:
    return code
  if all(map(worker.is_done, tasks)):  # It prints that all are done.
    return atari_runner.run('slurm', tasks, root, 1, 1, [])
  processes = _or('processes', _PROCESSES.value,
                  resources.tasks_of(job, 'atari_evaluator', {}) or len(tasks))
  threads = _or('threads', _THREADS.value, job.groups[0].cpus)
  return launches.atari(tasks, root, job, processes, threads,
                        runner.Supervision(), _FOLLOW.value)


def main() -> int:
  if not _RESULTS.value:
    raise command.UsageError('--results is missing: the directory of results')
  if _LAUNCH_TYPE.value not in LAUNCH_TYPES:
    raise command.UsageError(f'--launch_type is {_LAUNCH_TYPE.value!r}; '
                             f'allowed: {", ".join(LAUNCH_TYPES)}')
  if _LAUNCH_TYPE.value in ('local_mp', 'slurm'):
    command.require_launchpad(f'--launch_type={_LAUNCH_TYPE.value}',
                              '--launch_type=processes')
  root = os.path.abspath(_RESULTS.value)
  tasks = make_tasks(root)
  job = _load_resources(_LAUNCH_TYPE.value)
  if job is not None:
    process_environment.ensure(process_environment.WORKER, here=False)
    return _submit(tasks, root, job)
  cores = processors.count()
  processes = _or('processes', _PROCESSES.value, min(cores, len(tasks)))
  if _LAUNCH_TYPE.value == 'embedded':
    processes = 1
  threads = _or('threads', _THREADS.value, max(1, cores // processes))
  process_environment.ensure(process_environment.WORKER)
  from lpg_distributed.launch.local import atari_runner
  if _WORKER.value:
    return atari_runner.work(tasks, threads)
  return atari_runner.run(_LAUNCH_TYPE.value, tasks, root, processes, threads,
                          sys.argv[1:])


if __name__ == '__main__':
  command.run(main)
