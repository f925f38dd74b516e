"""Shows a job's log and its states until it ends."""

import os
import sys
import time
from typing import Optional

from lpg_distributed.launch.cluster.slurm import commands

_TICK_S = 0.5
_ASK_S = 3.  # seconds between two requests to Slurm
_TAIL = 4096  # bytes of the existing log that are shown


class _LogTail:
  """Shows what is appended to a log."""

  def __init__(self, path: str, begin: Optional[int]):
    self._path = path
    self._position = begin

  def show(self) -> None:
    try:
      with open(self._path, 'rb') as f:
        if self._position is None:
          f.seek(0, os.SEEK_END)
          self._position = max(0, f.tell() - _TAIL)
        f.seek(self._position)
        text = f.read()
        self._position = f.tell()
    except OSError:
      return
    sys.stdout.write(text.decode(errors='replace'))
    sys.stdout.flush()


def _log(text: str) -> None:
  print(f'slurm: {text}', file=sys.stderr, flush=True)


def follow(job_id: str, path: str, begin: Optional[int]) -> int:
  """Follows a job until it ends; Ctrl-C stops following, not the job.

  Args:
    job_id: number of the job.
    path: path of its log.
    begin: byte of the log to start at; None: near its end.

  Returns:
    0 if the job succeeded, 130 after Ctrl-C, else 1.
  """
  log = _LogTail(path, begin)
  last, next_question = None, 0.
  try:
    while True:
      log.show()
      if time.monotonic() >= next_question:
        next_question = time.monotonic() + _ASK_S
        try:
          state = commands.state(job_id)
        except commands.SlurmError as error:  # It may answer later.
          _log(str(error))
          continue
        if state is None:
          break
        if state != last:
          last = state
          _log(f'job {job_id} is {state.name}'
               + (f' on {state.hosts}' if state.hosts else '')
               + (f' ({state.reason})' if state.reason != 'None' else ''))
      time.sleep(_TICK_S)
  except KeyboardInterrupt:
    _log(f'job {job_id} goes on; cancel it with: scancel {job_id}')
    return 130
  name, code = commands.end(job_id)
  log.show()
  _log(f'job {job_id} has ended: {name}, exit code {code.split(":")[0] or "?"}')
  return 0 if name == 'COMPLETED' else 1
