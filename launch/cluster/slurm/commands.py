"""Slurm's commands, each with a time limit and one line for what is wrong."""

import os
import re
import subprocess
from typing import Container, NamedTuple, Optional

from lpg_distributed import errors

_TIMEOUT_S = 60.
# Prefixes of variables that change what Slurm's commands do, and those of them
# that say where the cluster is.
_OF_USERS = ('SBATCH_', 'SLURM_', 'SALLOC_', 'SRUN_', 'SQUEUE_', 'SINFO_',
             'SCONTROL_', 'SCANCEL_')
_OF_CLUSTER = ('SLURM_CONF', 'SLURM_CONF_SERVER', 'SLURM_JWT',
               'SLURM_CLUSTERS', 'SBATCH_CLUSTERS', 'SLURM_PLUGIN_PATH')


class SlurmError(errors.UserError, RuntimeError):
  """Slurm is not here, does not answer, or refuses; one line."""


class State(NamedTuple):
  """What Slurm says of a job."""
  name: str  # as RUNNING
  reason: str
  hosts: str


class Host(NamedTuple):
  """A host as it is within one partition."""
  partition: str
  default: bool  # whether this is the default partition
  name: str
  cpus: int
  memory_mb: int
  accelerators: dict[str, int]  # as {'gpu': 4, 'gpu:a100': 4}
  state: str
  time_limit: str  # as Slurm writes it


def environment(kept: Container[str] = ()) -> dict[str, str]:
  """The environment of a command of Slurm's, without settings of the user's.

  Variables of the user's shell, or of a job inside which this one is
  submitted, would overrule what is asked for, or hide jobs.

  Args:
    kept: variables that stay nevertheless.
  """
  return {name: value for name, value in os.environ.items()
          if name in kept or name in _OF_CLUSTER
          or not name.startswith(_OF_USERS)}


def call(*words: str, kept: Container[str] = ()) -> str:
  """The output of one of Slurm's commands.

  Args:
    *words: of the command.
    kept: see `environment`.

  Raises:
    SlurmError: it is not here, fails, or takes too long.
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
  """Of a list as `gpu:a100:4(S:0-1),tpu:8`."""
  found: dict[str, int] = {}
  for part in re.sub(r'\([^)]*\)', '', text).split(','):
    words = part.split(':')
    if len(words) in (2, 3) and words[-1].isdigit():
      for name in {words[0], ':'.join(words[:-1])}:
        found[name] = found.get(name, 0) + int(words[-1])
  return found


def hosts() -> list[Host]:
  """All hosts of all partitions."""
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


def state(job_id: str) -> Optional[State]:
  """Of a job that is queued or runs; None if it has ended or never was."""
  try:
    lines = call('squeue', '--noheader', f'--jobs={job_id}',
                 '--format=%T|%r|%N').splitlines()
  except SlurmError as error:
    if 'Invalid job id' in str(error):  # Slurm has forgotten it.
      return None
    raise
  found = [State(*line.split('|', 2)) for line in lines if '|' in line]
  # Components are listed one by one; hosts that are left by an old attempt
  # may still be said to run. The leader's is what counts.
  return found[0] if found else None


def end(job_id: str) -> tuple[str, str]:
  """How a job has ended, as COMPLETED, and its exit code as `code:signal`."""
  try:
    text = call('scontrol', 'show', 'job', job_id, '--oneliner')
  except SlurmError:  # Forgotten.
    return 'unknown', ''
  words = text.partition("\n")[0].split()
  fields = dict(word.partition("=")[::2] for word in words)
  return fields.get('JobState', 'unknown'), fields.get('ExitCode', '')
