"""Files by which the parts of a Slurm job communicate.

They are in the job's directory, which may be the only thing that hosts share.
Over NFS a new file becomes visible late, but new content is read by the next
`open`. So files that change (heartbeats, and the leader's file) are written in
place. Files that do not change are written aside and renamed. Clocks of
different hosts are never compared.

This module needs the standard library only, since agents run without packages.
"""

import contextlib
import json
import os
from typing import Any, Optional

from lpg_distributed import files

JOB_FILE = 'job.json'
ID_FILE = 'id'
STOP = 'stop'
LEADER = 'leader'
# How nodes must end: after saving their state, or at once, with nothing to
# save.
ORDERLY, QUICKLY = 'orderly', 'quickly'
# Directories of an attempt, with files by node: its addresses, its agent's
# heartbeats, its process id, its deaths.
DIRECTORIES = ('addresses', 'beats', 'pids', 'deaths')
VARIABLE = 'LPG_ATTEMPT_DIR'


def attempts(job_dir: str) -> list[int]:
  """Returns the numbers of all attempts; a requeued job starts a new one."""
  with contextlib.suppress(FileNotFoundError):
    return sorted(int(name) for name in os.listdir(
        os.path.join(job_dir, 'attempts')) if name.isdigit())
  return []


def attempt_dir(job_dir: str, attempt: int) -> str:
  """Returns the directory of an attempt."""
  return os.path.join(job_dir, 'attempts', str(attempt))


def new_attempt(job_dir: str) -> str:
  """Creates the directory of the next attempt."""
  path = attempt_dir(job_dir, (attempts(job_dir) or [-1])[-1] + 1)
  for name in DIRECTORIES:
    os.makedirs(os.path.join(path, name))
  return path


def write(path: str, content: Any) -> None:
  """Writes JSON atomically."""
  aside = f'{path}.{os.getpid()}.aside'
  with open(aside, 'w', encoding='utf-8') as f:
    json.dump(content, f)
  os.replace(aside, path)


def write_in_place(path: str, content: Any) -> None:
  """Writes JSON over the old content; a reader may meanwhile get None.

  The file is not emptied first: on a full disk its space would be lost, and a
  node that cannot write heartbeats counts as dead.
  """
  data = json.dumps(content).encode()
  descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
  try:
    os.ftruncate(descriptor, os.write(descriptor, data))
  finally:
    os.close(descriptor)


def read(path: str) -> Optional[Any]:
  """Reads JSON; returns None if the file does not exist or is incomplete."""
  try:
    return files.read_json(path)
  except (OSError, ValueError):
    return None


def read_object(path: str) -> Optional[dict[str, Any]]:
  """Like `read`; returns None also if the file holds no object."""
  found = read(path)
  return found if isinstance(found, dict) else None


def names(directory: str) -> list[str]:
  """Returns the files of a directory, without temporary ones."""
  try:
    return [n for n in os.listdir(directory) if not n.endswith('.aside')]
  except OSError:
    return []


def node_file(label: str, number: int) -> str:
  """Returns the name of a node's files."""
  return f'{label}.{number}'
