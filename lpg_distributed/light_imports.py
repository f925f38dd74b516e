"""Imports of libraries without packages that are not needed here."""

import contextlib
import sys
from typing import Iterator


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
  """Within it, an import of the package fails, unless it was imported before.

  In all threads: to be used where a process imports its modules.
  """
  absent = package not in sys.modules
  if absent:
    sys.modules[package] = None
  try:
    yield
  finally:
    if absent:
      del sys.modules[package]


def import_rlax():
  """Imports RLax without TensorFlow.

  RLax needs Distrax, which needs TensorFlow Probability. Where TensorFlow is
  installed, that imports it, for seconds, to copy docstrings from it.
  """
  with without('tensorflow'):
    import rlax  # pylint: disable=g-import-not-at-top
  return rlax
