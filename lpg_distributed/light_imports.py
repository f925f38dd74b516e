"""Imports of libraries without packages that are not needed here."""

import contextlib
import importlib
import sys
import types
from typing import Any, Callable, Iterator, Mapping


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


class _LaterModule(types.ModuleType):
  """Stands for a package, and imports it when another name of it is used."""

  def __init__(self, package: str, import_package: Callable[[], Any],
               names: Mapping[str, Any]):
    super().__init__(package)
    self.__dict__.update(names)
    self.__import = import_package

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__'):  # Python's own questions about modules.
      raise AttributeError(name)
    return getattr(self.__import(), name)


@contextlib.contextmanager
def later(package: str, import_package: Callable[[], Any],
          **names: Any) -> Iterator[None]:
  """Within it, imports give a stand-in that imports the package when used.

  Not if the package was imported before. As with `without`, in all threads.

  Args:
    package: name of the package.
    import_package: imports and returns it.
    **names: values of names that are used at once, for example in annotations.
  """
  absent = package not in sys.modules
  if absent:
    sys.modules[package] = _LaterModule(package, import_package, names)
  try:
    yield
  finally:
    if absent:
      del sys.modules[package]


def import_distrax():
  """Imports Distrax without TensorFlow.

  Distrax needs TensorFlow Probability. Where TensorFlow is installed, that
  imports it, for seconds, to copy docstrings from it.
  """
  with without('tensorflow'):
    return importlib.import_module('distrax')


def import_rlax():
  """Imports RLax without Distrax.

  RLax needs it for functions that are not used here. Its import takes as long
  as those of all other libraries of a worker together.
  """
  with later('distrax', import_distrax, DistributionLike=Any):
    import rlax
  return rlax
