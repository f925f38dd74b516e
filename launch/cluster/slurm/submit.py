"""Writes a job's directory, and submits the job."""

import dataclasses
import os
import shlex
import shutil
import sys
from typing import Any, Mapping, Optional, Sequence

import cloudpickle

from lpg_distributed import program_version
from lpg_distributed.launch import process_environment
from lpg_distributed.launch.cluster import own_modules
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import checks
from lpg_distributed.launch.cluster.slurm import commands
from lpg_distributed.launch.cluster.slurm import places
from lpg_distributed.store import own_directory

_NOTICE_S = 120  # seconds before the time limit at which a signal comes
# Variables of the user's shell that are used if the resource file has no value.
_DEFAULTS = ('SBATCH_ACCOUNT', 'SBATCH_QOS', 'SBATCH_RESERVATION')
# Ends the script if a line of `setup` fails, as `set -e` of bash would.
_ON_FAILURE = ('trap \'code=$?; echo "setup failed with code $code: '
               '$BASH_COMMAND" >&2; exit 1\' ERR')
LOG = os.path.join('logs', 'slurm.log')


def job_dir_of(run_dir: str) -> str:
  """Returns the directory of a run's job."""
  return os.path.join(os.path.abspath(run_dir), 'slurm')


def current(run_dir: str) -> Optional[tuple[str, commands.JobState]]:
  """Returns a run's queued or running job and its state; None if no job."""
  job_id = places.read(os.path.join(job_dir_of(run_dir), places.ID_FILE))
  found = commands.state(str(job_id)) if job_id else None
  return (str(job_id), found) if found else None


def _script(group: resources.Group, job_dir: str, *words: str) -> str:
  """Returns a bash script that runs Python in the group's environment."""
  python = group.python or sys.executable
  command = [python, *words]
  if group.image:
    command = shlex.split(group.image_command.format(
        job=shlex.quote(os.path.dirname(job_dir)),
        image=os.path.abspath(group.image),
        nv='--nv' if group.gpus else '')) + command
  lines = [f'export PYTHONPATH={shlex.quote(os.path.join(job_dir, "code"))}']
  if group.setup:
    lines += [_ON_FAILURE, *group.setup, 'trap - ERR']
  return '\n'.join([*lines, 'exec ' + shlex.join(command)]) + '\n'


def _options(placed: resources.PlacedGroup, leads: bool) -> list[str]:
  """Returns sbatch options for one component of the job."""
  group = placed.group
  options = [f'--nodes={group.hosts + group.spare_hosts}',
             f'--ntasks-per-node={placed.nodes_per_host}',
             f'--cpus-per-task={group.cpus}']
  memory_mb = checks.memory_mb(placed, leads)
  if group.memory_option == 'mem':
    options.append(f'--mem={memory_mb}M')
  elif group.memory_option == 'mem-per-cpu':
    cpus = group.cpus * placed.nodes_per_host
    options.append(f'--mem-per-cpu={-(-memory_mb // cpus)}M')
  gres = ','.join(f'{kind}:{n}' for kind, n in checks.accelerators(placed))
  options += [f'--gres={gres}'] if gres else []
  options += [f'--partition={group.partition}'] if group.partition else []
  options += [f'--time={group.time}'] if group.time else []
  return options + list(group.options)


def _notice_s(time: str) -> int:
  seconds = resources.parse_time(time)
  return min(_NOTICE_S, max(1, seconds // 4))


def arguments(job: resources.JobResources,
              groups: Sequence[resources.PlacedGroup], job_dir: str,
              log: str) -> list[str]:
  """Returns the arguments of sbatch for all components.

  `#SBATCH` lines are not used: they do not permit blanks or quotes in paths,
  and variables of the user's shell override them.
  """
  # In names of logs Slurm replaces patterns that begin with a per cent sign.
  log = log.replace('%', '%%')
  words: list[str] = []
  common = ['--export=ALL',
            f'--job-name={job.name}', f'--output={log}', '--open-mode=append',
            '--requeue' if job.requeue else '--no-requeue',
            f'--chdir={job_dir}']
  common += [f'--account={job.account}'] if job.account else []
  common += [f'--qos={job.qos}'] if job.qos else []
  times = [placed.group.time for placed in groups if placed.group.time]
  if times:
    common.append(f'--signal=B:USR1@{min(map(_notice_s, times))}')
  # If a heterogeneous job loses a host, Slurm ends its first component. With
  # --no-kill it would keep the others, and the job could never restart.
  common += ['--no-kill'] if len(groups) == 1 else []
  for i, placed in enumerate(groups):
    words += [':'] if i else []
    words += [*(common if i == 0 else []), *_options(placed, i == 0)]
  return words


def _check_path(job_dir: str) -> None:
  """Raises ResourceError if Python or a container cannot use the path."""
  for character in ':\n':
    if character in job_dir:
      raise resources.ResourceError(
          f'{job_dir!r} has {character!r} in it, which PYTHONPATH does not '
          'allow; choose another directory')


def _warn_of_unused() -> None:
  names = [name for name in os.environ if name.startswith('SBATCH_')
           and name not in _DEFAULTS and name != 'SBATCH_CLUSTERS']
  if names:
    print(f'warning: not used, since the resource file decides: '
          f'{", ".join(sorted(names))}', file=sys.stderr, flush=True)


def write_directory(job_dir: str, work: Any, program,
                    job: resources.JobResources,
                    groups: Sequence[resources.PlacedGroup],
                    about: Mapping[str, Any],
                    environments: Sequence[str] = ()) -> None:
  """Creates the job's directory again: code, nodes, scripts.

  Args:
    job_dir: the directory. Only its owner may write there, since nodes are
      pickles.
    work: an object of a class in `work.py`.
    program: the Launchpad program.
    job: the resource file.
    groups: groups of the resource file, with the program's nodes.
    about: further fields of the job's file.
    environments: names of environments; modules of own ones are copied.
  """
  _check_path(job_dir)
  from lpg_distributed.launch.cluster import serialising
  from lpg_distributed.launch.cluster.slurm import address
  shutil.rmtree(job_dir, ignore_errors=True)
  own_directory.make(job_dir, private=True)
  own_directory.make(os.path.join(job_dir, 'nodes'), private=True)
  shutil.copytree(
      os.path.join(process_environment.root(), 'lpg_distributed'),
      os.path.join(job_dir, 'code', 'lpg_distributed'),
      ignore=shutil.ignore_patterns('__pycache__'))
  program_version.keep_commit(
      os.path.join(job_dir, 'code', 'lpg_distributed'))
  own_modules.copy(environments, os.path.join(job_dir, 'code'))
  addresses = serialising.serialise(
      program, os.path.join(job_dir, 'nodes'), address.PublishedAddress,
      address.stop_program)
  with open(os.path.join(job_dir, 'work.pkl'), 'wb') as f:
    cloudpickle.dump(work, f)
  num_nodes = sum(len(placed.nodes) for placed in groups)
  for i, placed in enumerate(groups):
    with open(os.path.join(job_dir, f'group{i}.sh'), 'w',
              encoding='utf-8') as f:
      f.write('#!/bin/bash\n' + _script(
          placed.group, job_dir, '-S', '-I',
          os.path.join(job_dir, 'code', 'lpg_distributed', 'launch',
                       'cluster', 'slurm', 'agent.py'),
          job_dir, str(i)))
    os.chmod(f.name, 0o700)
  ports = resources.port_range(job)
  places.write(os.path.join(job_dir, places.JOB_FILE), {
      **about, 'entry': serialising.ENTRY, 'requeue': job.requeue,
      'addresses': addresses, 'ports': [ports[0], ports[-1]] if ports else [],
      # Limits writes to 50 files per second, for any number of nodes.
      'beat_s': max(1., num_nodes / 50),
      'groups': [{
          'name': placed.group.name, 'nodes': placed.nodes,
          'hosts': placed.group.hosts, 'cpus': placed.group.cpus,
          'nodes_per_host': placed.nodes_per_host,
          'gpus': placed.group.gpus, 'crowd': placed.group.crowd,
          'asks_memory': placed.group.memory_option != 'none'}
                 for placed in groups]})


def submit(job_dir: str, job: resources.JobResources,
           groups: Sequence[resources.PlacedGroup], log: str) -> str:
  """Submits the job in a directory; returns its number.

  Raises:
    SlurmError: Slurm refuses.
  """
  script = os.path.join(job_dir, 'batch.sh')
  group = groups[0].group
  if group.image:  # The leader calls srun and scontrol, which images lack.
    group = dataclasses.replace(group, image='', python='')
  with open(script, 'w', encoding='utf-8') as f:
    f.write('#!/bin/bash\n' + _script(
        group, job_dir, '-m',
        'lpg_distributed.launch.cluster.slurm.leader', job_dir))
  words = ['sbatch', '--parsable', *arguments(job, groups, job_dir, log),
           script]
  with open(os.path.join(job_dir, 'command'), 'w', encoding='utf-8') as f:
    f.write(shlex.join(words) + '\n')
  _warn_of_unused()
  job_id = commands.call(*words, kept=_DEFAULTS).strip().split(';')[0]
  places.write(os.path.join(job_dir, places.ID_FILE), job_id)
  return job_id
