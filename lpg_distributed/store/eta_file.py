"""A rule as a file: `.npz` with eta and, as JSON, the configuration of it."""

import dataclasses
import io
import json
import math
from typing import Any, NamedTuple

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed.core import rule_vector
from lpg_distributed.store import files

_FORMAT = 'lpg-eta-1'
_LARGEST, _LARGEST_HEADER = 1 << 28, 1 << 22  # bytes


class EtaFileError(errors.UserError, ValueError):
  """A file that is no rule; the message is one line."""


class EtaFile(NamedTuple):
  eta: np.ndarray  # [P] float32
  rule: config_lib.RuleConfig
  info: dict[str, Any]  # whatever was saved with it, such as `meta_step`


def pack(eta: Any, rule: config_lib.RuleConfig, **info: Any) -> bytes:
  """What `save` writes."""
  if not hasattr(eta, 'shape'):
    eta = rule_vector.ravel(eta)
  header = {'format': _FORMAT, 'rule': dataclasses.asdict(rule), 'info': info}
  buffer = io.BytesIO()
  np.savez_compressed(buffer, eta=np.asarray(eta, np.float32),
                      header=np.array(json.dumps(header)))
  return buffer.getvalue()


def save(path: str, eta: Any, rule: config_lib.RuleConfig,
         **info: Any) -> None:
  """Writes eta, [P] or a tree, whole or not at all; `info` must be JSON."""
  files.write_whole(path, pack(eta, rule, **info))


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
  """Raises ValueError for what no rule's file has."""
  fits = {'header': dtype.kind == 'U' and shape == ()
                    and dtype.itemsize <= _LARGEST_HEADER,
          'eta': dtype.kind in 'fiu' and len(shape) <= 2
                 and math.prod(shape) * dtype.itemsize <= _LARGEST}
  if not fits.get(name):
    raise ValueError(f'it has {name} as {dtype}{list(shape)}')


def load(path: str) -> EtaFile:
  """Reads what `save` wrote.

  Raises:
    EtaFileError: the file is missing, cut short, or something else.
  """
  try:
    with open(path, 'rb') as f:
      data = f.read(_LARGEST + 1)
    if len(data) > _LARGEST:
      raise ValueError(f'it is larger than {_LARGEST} bytes')
    saved = files.read_arrays(data, _check)
    header = json.loads(saved['header'].item())
    eta = saved['eta']
    if header['format'] != _FORMAT:
      raise ValueError(f'its format is {header["format"]!r}; allowed: '
                       f'{_FORMAT!r}')
    rule = config_lib.RuleConfig(**header['rule'])
    info = dict(header['info'])
  except FileNotFoundError:
    raise EtaFileError(f'there is no file {path}') from None
  # Damage shows as nearly any error of zipfile, zlib, NumPy or JSON.
  except Exception as error:  # pylint: disable=broad-except
    reason = str(error) or type(error).__name__
    raise EtaFileError(f'{path} is not a rule saved by this program '
                       f'({" ".join(reason.split())})') from None
  size = rule_vector.size(rule)
  if eta.shape != (size,) or eta.dtype != np.float32:
    raise EtaFileError(f'{path} holds {eta.dtype}{list(eta.shape)}; its '
                       f'configuration says float32[{size}]')
  if not np.all(np.isfinite(eta)):
    raise EtaFileError(f'{path} holds numbers that are not finite')
  return EtaFile(eta, rule, info)
