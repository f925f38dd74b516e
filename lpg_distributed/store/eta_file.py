"""Files of rules: eta as `.npz`, with its configuration as JSON."""

from typing import Any, Mapping, NamedTuple

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed import files
from lpg_distributed.core import rule_vector
from lpg_distributed.store import tree_file

_FORMAT = 'lpg-eta-1'
_LARGEST = 1 << 27  # bytes of eta; the paper's rule has 1.1 million


class EtaFileError(errors.UserError, ValueError):
  """The file does not hold a rule; the message is one line."""


class EtaFile(NamedTuple):
  eta: np.ndarray  # [P] float32
  rule: config_lib.RuleConfig
  info: dict[str, Any]  # metadata of the rule, such as `meta_step`


def pack(eta: Any, rule: config_lib.RuleConfig, **info: Any) -> bytes:
  """Returns the bytes that `save` writes."""
  if not hasattr(eta, 'shape'):
    eta = rule_vector.ravel(eta)
  header = {'format': _FORMAT, 'rule': config_io.rule_to_dict(rule),
            'info': info}
  return tree_file.pack({'eta': np.asarray(eta, np.float32)}, header,
                        compressed=True)


def save(path: str, eta: Any, rule: config_lib.RuleConfig,
         **info: Any) -> None:
  """Writes eta, [P] or a tree, atomically; `info` has JSON types."""
  files.write_whole(path, pack(eta, rule, **info))


def load(path: str) -> EtaFile:
  """Reads a file of `save`.

  Raises:
    EtaFileError: the file is missing, truncated, or holds no rule.
  """
  try:
    with tree_file.open_tree(path) as saved:
      rule, info = _parse_header(saved.read_header())
      wanted = tree_file.ArraySpec((rule_vector.size(rule),),
                                   np.dtype(np.float32))
      if wanted.size > _LARGEST:
        raise tree_file.TreeFileError(
            f'eta has {wanted.size} bytes; allowed: up to {_LARGEST}')
      found = saved.specs.get('eta')
      if found is None:
        raise tree_file.TreeFileError('it has no eta')
      if found != wanted:
        raise EtaFileError(f'{path} holds eta as {found}; its configuration '
                           f'says {wanted}')
      eta = saved.read_leaves({'eta': wanted})['eta']
  except FileNotFoundError:
    raise EtaFileError(f'there is no file {path}') from None
  except tree_file.TreeFileError as error:
    raise EtaFileError(f'{path} is not a rule saved by this program '
                       f'({error})') from None
  if not np.all(np.isfinite(eta)):
    raise EtaFileError(f'{path} holds numbers that are not finite')
  return EtaFile(eta, rule, info)


def _parse_header(header: Mapping[str, Any]
                  ) -> tuple[config_lib.RuleConfig, dict[str, Any]]:
  """Returns the rule's configuration and the metadata saved with it."""
  try:
    tree_file.check_format(header, _FORMAT)
    info = header['info']
    if not isinstance(info, dict):
      raise ValueError('its info is no group of fields')
    fields.Integer(0).check('meta_step', info.get('meta_step', 0))
    return config_io.build(config_lib.RuleConfig, header['rule'],
                           'rule.'), info
  except KeyError as error:
    raise tree_file.TreeFileError(f'it has no {error.args[0]}') from None
  except (TypeError, ValueError) as error:
    raise tree_file.TreeFileError(' '.join(str(error).split())) from None
