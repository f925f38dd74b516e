"""Published rules: weights and card of each, by name.

`weights/NAME.npz` is a file of `eta_file`. `weights/NAME.json` is its card:
configuration, steps, seed, curves, results, and the commands that produced it.
`lpg publish` writes both.
"""

import hashlib
import os
import re
from typing import Any

from lpg_distributed import errors
from lpg_distributed import files

DIRECTORY = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'weights')
CARD_FORMAT = 'lpg-card-1'
LARGEST = 2 << 20  # bytes of the weights
_NAME = re.compile(r'[a-z][a-z0-9_]{0,63}')


class PublishedError(errors.UserError, ValueError):
  """There is no such rule, or it cannot be published; one line."""


def is_name(text: str) -> bool:
  """Whether a text has the form of a published rule's name."""
  return _NAME.fullmatch(text) is not None


def names() -> tuple[str, ...]:
  """Returns the names of all rules with weights and a card."""
  if not os.path.isdir(DIRECTORY):
    return ()
  present = set(os.listdir(DIRECTORY))
  return tuple(sorted(
      name.removesuffix('.npz') for name in present
      if name.endswith('.npz') and is_name(name.removesuffix('.npz'))
      and name.removesuffix('.npz') + '.json' in present))


def weights_path(name: str) -> str:
  return os.path.join(DIRECTORY, f'{name}.npz')


def card_path(name: str) -> str:
  return os.path.join(DIRECTORY, f'{name}.json')


def sum_of(name: str) -> str:
  """Returns the SHA-256 sum of the weights, which the card states."""
  with open(weights_path(name), 'rb') as f:
    return hashlib.sha256(f.read()).hexdigest()


def resolve(name_or_path: str) -> str:
  """Returns the absolute path of a rule's file.

  Args:
    name_or_path: name of a published rule; path of a file; or a run's
      directory, which stands for its `eta.npz`. A file takes precedence over a
      published rule of the same name.

  Raises:
    PublishedError: it has the form of a name, and there is neither such a rule
      nor such a file.
  """
  path = os.path.abspath(name_or_path)
  if os.path.isfile(os.path.join(path, 'eta.npz')):
    return os.path.join(path, 'eta.npz')
  if not is_name(name_or_path) or (os.path.exists(path)
                                   and not os.path.isdir(path)):
    return path
  if name_or_path not in names():
    raise PublishedError(
        f'there is no published rule {name_or_path!r}, and no such file; '
        f'allowed: {", ".join(names()) or "(none is published yet)"}')
  return weights_path(name_or_path)


def fix(name_or_path: str) -> str:
  """Returns a text that names the same rule from any directory.

  The name of a published rule is kept, since each copy of the program has the
  rule. A path becomes absolute.

  Raises:
    PublishedError: as `resolve`.
  """
  path = resolve(name_or_path)
  return (name_or_path if is_name(name_or_path)
          and path == weights_path(name_or_path) else path)


def read_card(path: str) -> dict[str, Any]:
  """Reads a card from a file.

  Raises:
    PublishedError: it is damaged.
  """
  try:
    card = files.read_json(path)
    if card['format'] != CARD_FORMAT:
      raise ValueError('it is of another format')
    return card
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise PublishedError(f'the card {path} is damaged: {error}') from None


def load_card(name: str) -> dict[str, Any]:
  """Reads the card of a published rule.

  Raises:
    PublishedError: there is no such rule, or its card is damaged.
  """
  if not os.path.exists(card_path(name)):
    raise PublishedError(
        f'there is no published rule {name!r}; allowed: '
        f'{", ".join(names()) or "(none is published yet)"}')
  card = read_card(card_path(name))
  if card.get('name') != name:
    raise PublishedError(f'the card of {name} is damaged: it is of '
                         f'{card.get("name")!r}')
  return card
