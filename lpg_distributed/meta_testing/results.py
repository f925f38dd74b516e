"""Results of meta-testing as JSON lines: a header, then rows.

The header holds everything that the rows depend on. A row describes one agent
at one time:

- `seed`: the agent's seed
- `env_steps`, `frames`: numbers so far
- `updates`: number of the agent's updates; PPO has several per trajectory
- `return`: mean of the raw, undiscounted returns of the episodes that ended
  since the agent's last row; null if none ended
- `episodes`: number of those episodes
- `seconds`: time since the start of this launch
- means of the learner's metrics
"""

import dataclasses
import json
import math
import os
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed import files
from lpg_distributed import former_names
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import settings as settings_lib
from lpg_distributed.store import run_versions

FORMAT = 'lpg-meta-test-1'
FILE = 'result.jsonl'
_LARGEST = 1e300  # of a number; arithmetic with larger ones overflows
_NUMBERS = ('env_steps', 'frames', 'episodes')  # in each row


class ResultError(errors.UserError, ValueError):
  """A file is not a result, or belongs to another job; one line."""


class Result(NamedTuple):
  """The job, header and rows of a result file."""
  job: jobs.Job
  header: Mapping[str, Any]
  rows: list[dict[str, Any]]


def make_header(job: jobs.Job, frames_per_step: int) -> dict[str, Any]:
  """Returns the header of a job: everything that the rows depend on."""
  rule = job.rule_config
  return {'format': FORMAT, **dataclasses.asdict(job),
          'rule_config': rule and config_io.rule_to_dict(rule),
          'frames_per_step': frames_per_step,
          'versions': run_versions.versions()}


def _settings(values: Mapping[str, Any]) -> settings_lib.AgentSettings:
  """Returns a header's settings.

  Old headers have former names, lack settings that came later, whose defaults
  change nothing, and repeat the number of predictions.
  """
  return settings_lib.AgentSettings(**{
      name: value for name, value in former_names.replace(values).items()
      if name != 'num_predictions'})


def _job(header: Mapping[str, Any]) -> jobs.Job:
  values = {f.name: header[f.name] for f in dataclasses.fields(jobs.Job)}
  config = values['rule_config']
  return jobs.Job(**{
      **values, 'seeds': tuple(values['seeds']),
      'settings': _settings(values['settings']),
      'rule_config': config and config_lib.RuleConfig(**config)})


def read(path: str) -> Result:
  """Reads a result file, or the one in a directory; skips incomplete lines.

  Raises:
    ResultError: there is no file, or it is not a result.
  """
  if os.path.isdir(path):
    path = os.path.join(path, FILE)
  try:
    with files.open_regular(path) as f:
      lines = f.read().decode('utf-8', 'replace').split('\n')
  except OSError as error:
    raise ResultError(f'{path} cannot be read: {error.strerror}') from None
  try:
    header = files.parse_object(lines[0])
    if header['format'] != FORMAT:
      raise ValueError('format')
    fields.Integer().check('frames_per_step', header['frames_per_step'])
    job = _job(header)
  except (ValueError, KeyError, TypeError, AttributeError):
    raise ResultError(f'{path} is not a result of meta-testing') from None
  return Result(job, header, list(_rows(lines[1:-1], job.seeds)))


def _rows(lines: Iterable[str], seeds: Sequence[int]
          ) -> Iterator[dict[str, Any]]:
  for line in lines:
    try:
      row = files.parse_object(line)
      whole = row['seed'] in seeds and all(
          _is_number(row[name]) for name in _NUMBERS) and (
              row['return'] is None or _is_number(row['return']))
    except (ValueError, KeyError):
      continue
    if whole:
      yield row


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and -_LARGEST < value < _LARGEST


def _plain(value: Any) -> Any:
  """Converts a value to JSON types; numbers that are not finite become None."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


class Writer:
  """Appends rows to a directory's result file."""

  def __init__(self, directory: str, header: Mapping[str, Any],
               done: Mapping[int, float]):
    """Starts the file, or resumes it.

    Args:
      directory: directory of the job.
      header: see `make_header`.
      done: number of steps in the checkpoint, by seed. Later rows are removed,
        since they will be written again.

    Raises:
      ResultError: the file belongs to another job.
    """
    self._path = os.path.join(directory, FILE)
    rows = []
    if os.path.exists(self._path):
      found = read(self._path)
      check_same(self._path, found.header, header)
      header = found.header  # Keeps the software versions of the first launch.
      rows = [row for row in found.rows
              if row['env_steps'] <= done.get(row['seed'], 0)]
    text = ''.join(json.dumps(x) + '\n' for x in [header, *rows])
    files.write_whole(self._path, text.encode())
    self._file = files.open_to_append(self._path)
    self.rows = rows

  def write(self, row: Mapping[str, Any]) -> None:
    """Appends one row."""
    row = {name: _plain(value) for name, value in row.items()}
    self.rows.append(row)
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()

  def sync(self) -> None:
    """Waits until the rows are on the disk."""
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def check_same(path: str, found: Mapping[str, Any],
               wanted: Mapping[str, Any]) -> None:
  """Raises ResultError if two headers belong to different jobs."""
  wanted = json.loads(json.dumps(wanted))
  found = {**found, 'settings': dataclasses.asdict(
      _settings(found['settings']))}
  changes = [f'{name} {found.get(name)!r} in it, {wanted[name]!r} now'
             for name in wanted
             if name not in ('versions', 'eta')
             and found.get(name) != wanted[name]]
  if changes:
    raise ResultError(f'{path} belongs to another job '
                      f'({"; ".join(changes[:3])}); choose another directory')
