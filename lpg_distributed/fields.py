"""Typed fields with bounds: what a value may be, checked in one place.

A dataclass declares its fields with `integer`, `number`, `flag`, `choice`,
`text` and `tuple_of`; `check` then compares all of them with their bounds. The
same bounds check arguments, as `SEED.check('seed', 3)`.
NumPy and JAX scalars become Python's, and a whole number may be written as
`3.` or `1e6`. True and False are no numbers.
"""

import dataclasses
import math
import re
import sys
from typing import Any, Optional, Sequence

from lpg_distributed import errors

# Steps, seeds and sizes are 32-bit numbers where they are computed with.
LARGEST = 2 ** 31 - 1
_KEY = 'bounds'  # of a field's metadata


class FieldError(errors.UserError, ValueError):
  """A value that is not allowed; the message is one line.

  Attributes:
    field: name of the field; empty where several are meant.
    problem: the message behind the name.
  """

  def __init__(self, message: str, field: str = '', problem: str = ''):
    super().__init__(message)
    self.field, self.problem = field, problem


def _plain(value: Any) -> Any:
  """A scalar of NumPy or JAX as Python's; anything else as it is."""
  if getattr(value, 'shape', None) == () and hasattr(value, 'item'):
    return value.item()
  return value


def _refuse(name: str, problem: str) -> FieldError:
  return FieldError(f'{name} {problem}', name, problem)


def _refuse_value(name: str, value: Any, allowed: str) -> FieldError:
  return _refuse(name, f'is {value!r}; allowed: {allowed}')


@dataclasses.dataclass(frozen=True)
class Integer:
  """Whole numbers within bounds."""
  low: int = 1
  high: int = LARGEST

  def check(self, name: str, value: Any) -> int:
    """Returns the value as an int; raises FieldError if it is not allowed."""
    found = _plain(value)
    if isinstance(found, float) and found.is_integer():
      found = int(found)
    if (isinstance(found, bool) or not isinstance(found, int)
        or not self.low <= found <= self.high):
      raise _refuse_value(name, value, f'a whole number from {self.low} to '
                          f'{self.high}')
    return found


@dataclasses.dataclass(frozen=True)
class Real:
  """Finite numbers within bounds; `open_low` excludes the lower one."""
  low: float = 0.
  high: float = math.inf
  open_low: bool = False

  def check(self, name: str, value: Any) -> float:
    """Returns the value; raises FieldError if it is not allowed."""
    found = _plain(value)
    if (isinstance(found, bool) or not isinstance(found, (int, float))
        or not abs(found) <= sys.float_info.max
        or not self.low <= found <= self.high
        or self.open_low and found == self.low):
      high = f' and <= {self.high:g}' if math.isfinite(self.high) else ''
      raise _refuse_value(name, value, 'a number '
                          f'{">" if self.open_low else ">="} {self.low:g}'
                          f'{high}')
    return found


@dataclasses.dataclass(frozen=True)
class Flag:
  """True and False."""

  def check(self, name: str, value: Any) -> bool:
    """Returns the value; raises FieldError if it is not allowed."""
    found = _plain(value)
    if not isinstance(found, bool):
      raise _refuse_value(name, value, 'true, false')
    return found


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of several texts."""
  options: tuple[str, ...]

  def check(self, name: str, value: Any) -> str:
    """Returns the value; raises FieldError if it is not allowed."""
    if value not in self.options:
      raise _refuse_value(name, value, ', '.join(self.options))
    return value


@dataclasses.dataclass(frozen=True)
class Text:
  """Texts that match `pattern`; `meaning` describes them in messages."""
  meaning: str = 'a text'
  pattern: Optional[re.Pattern[str]] = None  # None: any text
  one_line: bool = False  # whether all characters must be printable

  def check(self, name: str, value: Any) -> str:
    """Returns the value; raises FieldError if it is not allowed."""
    if (not isinstance(value, str)
        or self.pattern is not None and not self.pattern.fullmatch(value)
        or self.one_line and not value.isprintable()):
      raise _refuse_value(name, value, self.meaning)
    return value


@dataclasses.dataclass(frozen=True)
class Tuple:
  """A tuple whose items have bounds of their own."""
  item: Any
  empty: bool = False
  meaning: str = 'a tuple'

  def check(self, name: str, value: Any) -> tuple[Any, ...]:
    """Returns the value; raises FieldError if it is not allowed."""
    if not isinstance(value, tuple):
      raise _refuse_value(name, value, self.meaning)
    if not value and not self.empty:
      raise _refuse(name, 'needs at least one value')
    return tuple(self.item.check(name, item) for item in value)


# A seed becomes 32 bits: larger ones would be the seeds of other numbers.
SEED = Integer(0)


def bounded(default: Any, bounds: Any) -> Any:
  """A dataclass field with bounds."""
  return dataclasses.field(default=default, metadata={_KEY: bounds})


def integer(default: int, low: int = 1, high: int = LARGEST) -> Any:
  return bounded(default, Integer(low, high))


def number(default: float, low: float = 0., high: float = math.inf,
           open_low: bool = False) -> Any:
  return bounded(default, Real(low, high, open_low))


def positive(default: float, high: float = math.inf) -> Any:
  return number(default, 0., high, open_low=True)


def flag(default: bool) -> Any:
  return bounded(default, Flag())


def choice(default: str, options: Sequence[str]) -> Any:
  return bounded(default, Choice(tuple(options)))


def text(default: str, meaning: str = 'a text') -> Any:
  return bounded(default, Text(meaning))


def tuple_of(default: tuple[Any, ...], item: Any, empty: bool = False) -> Any:
  return bounded(default, Tuple(item, empty))


def check(instance: Any, prefix: str = '', error: type = FieldError) -> None:
  """Compares all fields of a dataclass with their bounds.

  Values become plain numbers, also in a frozen dataclass.

  Args:
    instance: of the dataclass, in its `__post_init__`.
    prefix: of names in messages.
    error: a subclass of FieldError to raise.
  """
  for field in dataclasses.fields(instance):
    if _KEY not in field.metadata:
      continue
    value = getattr(instance, field.name)
    try:
      checked = field.metadata[_KEY].check(field.name, value)
    except FieldError as found:
      raise error(f'{prefix}{field.name} {found.problem}', field.name,
                  found.problem) from None
    object.__setattr__(instance, field.name, checked)


def parse_integer(value: Any) -> Any:
  """A text as a whole number where it is one, as `20`, `3.` or `1e6`."""
  if not isinstance(value, str):
    return value
  try:
    return int(value)
  except ValueError:
    found = float(value)  # Or it raises ValueError.
    return int(found) if found.is_integer() else found
