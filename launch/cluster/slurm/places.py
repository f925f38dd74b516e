"""Where the parts of a Slurm job find each other: files of its directory.

Needs the standard library only, since agents run without packages. The job
directory may be the only thing that the hosts share, perhaps over NFS, where a
new name is seen late, but a file's new content with the next `open`. So what
changes (beats, and what the leader says) is written in place, what is there for
good is written aside and renamed, and no host's clock is compared with
another's.
"""

import contextlib
import json
import os
from typing import Any, Optional

JOB_FILE = 'job.json'
ID_FILE = 'id'
STOP = 'stop'
LEADER = 'leader'
# What the leader tells agents: that nodes save what they have and end, or that
# there is nothing to save.
ORDERLY, QUICKLY = 'orderly', 'quickly'
# Of an attempt, by node: its address, its agent's beats, its process id, its
# deaths.
DIRECTORIES = ('addresses', 'beats', 'pids', 'deaths')
VARIABLE = 'LPG_ATTEMPT_DIR'


def attempts(job_dir: str) -> list[int]:
  """Numbers of the attempts so far; a job that is queued again begins one."""
  with contextlib.suppress(FileNotFoundError):
    return sorted(int(name) for name in os.listdir(
        os.path.join(job_dir, 'attempts')) if name.isdigit())
  return []


def attempt_dir(job_dir: str, attempt: int) -> str:
  return os.path.join(job_dir, 'attempts', str(attempt))


def new_attempt(job_dir: str) -> str:
  """Makes the directory of the next attempt."""
  path = attempt_dir(job_dir, (attempts(job_dir) or [-1])[-1] + 1)
  for name in DIRECTORIES:
    os.makedirs(os.path.join(path, name))
  return path


def write(path: str, content: Any) -> None:
  """Writes JSON, whole or not at all for who reads."""
  aside = f'{path}.{os.getpid()}.aside'
  with open(aside, 'w', encoding='utf-8') as f:
    json.dump(content, f)
  os.replace(aside, path)


def write_in_place(path: str, content: Any) -> None:
  """Writes JSON; who reads in between finds nothing."""
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(content, f)


def read(path: str) -> Optional[Any]:
  """The reverse; None if it is not there yet, or is not whole."""
  try:
    with open(path, encoding='utf-8') as f:
      return json.load(f)
  except (OSError, ValueError):
    return None


def names(directory: str) -> list[str]:
  """What is in a directory, without what is being written."""
  try:
    return [n for n in os.listdir(directory) if not n.endswith('.aside')]
  except OSError:
    return []


def node_file(label: str, number: int) -> str:
  return f'{label}.{number}'
