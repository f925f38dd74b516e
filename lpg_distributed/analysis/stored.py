"""Stores results of experiments as small JSON files.

Figures and tables are made from these files.
"""

import json
import os
from typing import Any, Mapping

import numpy as np

from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed import former_names

_FORMAT = 'lpg-results-1'
_DIGITS = 5  # significant digits: enough for figures, and files stay small
_MAX_BYTES = 1 << 26  # of a file


class ResultsError(errors.UserError, ValueError):
  """Results cannot be used; the message is one line."""


def plain(value: Any) -> Any:
  """Converts arrays, NumPy's numbers and tuples to JSON types; rounds floats.

  Numbers that are not finite become None.
  """
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (bool, str)) or value is None:
    return value
  if isinstance(value, (int, np.integer)):
    return int(value)
  if isinstance(value, (float, np.floating)):
    return float(f'{value:.{_DIGITS}g}') if np.isfinite(value) else None
  if isinstance(value, np.bool_):
    return bool(value)
  if isinstance(value, np.ndarray) and not value.ndim:
    return plain(value.item())
  return [plain(item) for item in value]


def as_array(values: Any) -> np.ndarray:
  """Converts nested lists to a float64 array; None becomes NaN."""
  return np.array(values, dtype=object).astype(np.float64) if np.size(
      values) else np.zeros(np.shape(values))


def save(path: str, experiment: str, about: Mapping[str, Any],
         data: Mapping[str, Any]) -> None:
  """Writes results atomically; `about` describes how they were computed.

  Raises:
    ResultsError: the file cannot be written.
  """
  content = {'format': _FORMAT, 'experiment': experiment,
             'about': plain(about), 'data': plain(data)}
  write(path, content)


def write(path: str, content: Mapping[str, Any]) -> None:
  """Writes readable JSON atomically.

  Raises:
    ResultsError: the file cannot be written.
  """
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    files.write_whole(path, _dump(content).encode())
  except OSError as error:
    raise ResultsError(f'{path} cannot be written: {error.strerror}') from None


def _dump(content: Mapping[str, Any]) -> str:
  """Formats JSON with indentation, and each list of numbers on one line."""
  def walk(value, indent):
    if isinstance(value, dict) and value:
      inner = ',\n'.join(
          f'{indent} {json.dumps(key)}: {walk(item, indent + " ")}'
          for key, item in value.items())
      return '{\n' + inner + f'\n{indent}}}'
    return json.dumps(value, allow_nan=False)
  return walk(content, '') + '\n'


def load(path: str, experiment: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads (`about`, `data`) from a file that `save` wrote.

  Raises:
    ResultsError: there is no such file, or it holds another experiment.
  """
  try:
    content = former_names.replace(files.read_json(path, _MAX_BYTES))
    found = content['experiment'] if content['format'] == _FORMAT else None
    about, data = dict(content['about']), dict(content['data'])
  except FileNotFoundError:
    raise ResultsError(f'there is no file {path}') from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ResultsError(f'{path} holds no results: {error}') from None
  if found != experiment:
    raise ResultsError(f'{path} holds results of {found!r}; allowed here: '
                       f'{experiment!r}')
  return about, data
