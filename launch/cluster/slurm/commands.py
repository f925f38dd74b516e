"""Calls Slurm's commands, with time limits and one-line errors."""

import os
import re
import subprocess
from typing import Container, NamedTuple, Optional

from lpg_distributed import errors

_TIMEOUT_S = 60.
# Prefixes of variables that change the behaviour of Slurm's commands, and the
# variables among them that locate the cluster.
_OF_USERS = ('SBATCH_', 'SLURM_', 'SALLOC_', 'SRUN_', 'SQUEUE_', 'SINFO_',
             'SCONTROL_', 'SCANCEL_')
_OF_CLUSTER = ('SLURM_CONF', 'SLURM_CONF_SERVER', 'SLURM_JWT',
               'SLURM_CLUSTERS', 'SBATCH_CLUSTERS', 'SLURM_PLUGIN_PATH')


class SlurmError(errors.UserError, RuntimeError):
  """Slurm is not installed, does not answer, or refuses.

  The message is one line.
  """


class JobState(NamedTuple):
  """The state of a job in Slurm."""
  name: str  # for example RUNNING
  reason: str
  hosts: str


class Host(NamedTuple):
  """A host in one partition."""
  partition: str
  default: bool  # whether this is the default partition
  name: str
  cpus: int
  memory_mb: int
  accelerators: dict[str, int]  # for example {'gpu': 4, 'gpu:a100': 4}
  state: str
  time_limit: str  # in Slurm's format


def environment(kept: Container[str] = ()) -> dict[str, str]:
  """Returns the environment of Slurm's commands, without user settings.

  Variables of the user's shell, or of an enclosing job, would override options
  or hide jobs.

  Args:
    kept: variables to keep.
  """
  return {name: value for name, value in os.environ.items()
          if name in kept or name in _OF_CLUSTER
          or not name.startswith(_OF_USERS)}


def call(*words: str, kept: Container[str] = ()) -> str:
  """Runs one of Slurm's commands and returns its output.

  Args:
    *words: the command and its arguments.
    kept: see `environment`.

  Raises:
    SlurmError: it is not installed, fails, or takes too long.
  """
  try:
    done = subprocess.run(words, capture_output=True, text=True, check=False,
                          timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL,
                          env=environment(kept))
  except FileNotFoundError:
    raise SlurmError(f'{words[0]} is not on this host; launch from one that '
                     'has Slurm\'s commands') from None
  except subprocess.TimeoutExpired:
    raise SlurmError(f'{words[0]} did not answer within {_TIMEOUT_S:g} s'
                     ) from None
  if done.returncode:
    raise SlurmError(f'{words[0]} refuses: '
                     f'{" ".join(done.stderr.split()) or done.returncode}')
  return done.stdout


def _accelerators(text: str) -> dict[str, int]:
  """Parses a list such as `gpu:a100:4(S:0-1),tpu:8`."""
  found: dict[str, int] = {}
  for part in re.sub(r'\([^)]*\)', '', text).split(','):
    words = part.split(':')
    if len(words) in (2, 3) and words[-1].isdigit():
      for name in {words[0], ':'.join(words[:-1])}:
        found[name] = found.get(name, 0) + int(words[-1])
  return found


def hosts() -> list[Host]:
  """Returns all hosts of all partitions."""
  found = []
  lines = call('sinfo', '--noheader', '--Node', '--format=%P|%N|%c|%m|%G|%T|%l')
  for line in lines.splitlines():
    fields = line.split('|')
    if len(fields) == 7:
      partition, name, cpus, memory, gres, state, limit = fields
      found.append(Host(
          partition.rstrip('*'), partition.endswith('*'), name,
          int(cpus.rstrip('+')), int(memory.rstrip('+')), _accelerators(gres),
          state.rstrip('*~#!%$@^-').lower(), limit))
  if not found:
    raise SlurmError('sinfo names no hosts')
  return found


def state(job_id: str) -> Optional[JobState]:
  """Returns the state of a queued or running job; None for any other."""
  try:
    lines = call('squeue', '--noheader', f'--jobs={job_id}',
                 '--format=%T|%r|%N').splitlines()
  except SlurmError as error:
    if 'Invalid job id' in str(error):  # Slurm no longer has the job.
      return None
    raise
  found = [JobState(*line.split('|', 2)) for line in lines if '|' in line]
  # Slurm lists each component of the job, and hosts of an old attempt may
  # still be listed as running. The leader's component decides.
  return found[0] if found else None


def end(job_id: str) -> tuple[str, str]:
  """Returns a job's final state, such as COMPLETED, and its exit code.

  The exit code has the form `code:signal`.
  """
  try:
    text = call('scontrol', 'show', 'job', job_id, '--oneliner')
  except SlurmError:  # Slurm no longer has the job.
    return 'unknown', ''
  words = text.partition("\n")[0].split()
  fields = dict(word.partition("=")[::2] for word in words)
  return fields.get('JobState', 'unknown'), fields.get('ExitCode', '')
