"""Reverb's client and Launchpad's Reverb node, without TensorFlow.

Importing TensorFlow takes seconds of processor time and 400 MiB of memory.
Reverb's server needs it. Its client needs only TensorFlow's shared library and
definitions of messages. Other names of TensorFlow that it imports are for
signatures of tables, which our queue does not read. Here they are placeholders.
"""

import contextlib
import ctypes
import importlib
from importlib import abc
from importlib import machinery
from importlib import util
import os
import sys
import types
from typing import Any, Iterator

from lpg_distributed import light_imports

_LIBRARY = 'libtensorflow_framework.so.2'


class _PlaceholderType(type):
  """The type of `_Placeholder`, each attribute of which is `_Placeholder`."""

  def __getattr__(cls, name: str) -> Any:
    if name.startswith('__'):
      raise AttributeError(name)
    return cls


class _Placeholder(metaclass=_PlaceholderType):
  """Stands for any name; its calls return None."""

  def __new__(cls, *args: Any, **kwargs: Any) -> None:
    return None


class _PlaceholderModule(types.ModuleType):
  """A module in which every name is a `_Placeholder`."""

  def __getattr__(self, name: str) -> Any:
    return getattr(_Placeholder, name)


class _Finder(abc.MetaPathFinder, abc.Loader):
  """Finds placeholders for a package, but the real modules in `core`."""

  def __init__(self, package: str, path: list[str]):
    self._package = package
    self._path = path

  def find_spec(self, name, path, target=None):
    if (name + '.').startswith(self._package + '.') and not name.startswith(
        self._package + '.core'):
      return machinery.ModuleSpec(name, self, is_package=True)
    return None

  def create_module(self, spec):
    module = _PlaceholderModule(spec.name)
    module.__path__ = self._path if spec.name == self._package else []
    return module

  def exec_module(self, module):
    module.__version__ = ''


def _directory(package: str) -> str:
  spec = util.find_spec(package)
  if spec is None:
    raise ModuleNotFoundError(f'No module named {package!r}', name=package)
  return spec.submodule_search_locations[0]


@contextlib.contextmanager
def _placeholders(package: str) -> Iterator[None]:
  """Within it, imports of a package that was not imported get placeholders."""
  finder = _Finder(package, [_directory(package)])
  sys.meta_path.insert(0, finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)
    for name, module in list(sys.modules.items()):
      if isinstance(module, _PlaceholderModule):
        del sys.modules[name]


def is_light() -> bool:
  """Whether this process has imported Reverb's client alone."""
  return 'reverb.client' in sys.modules and 'reverb.server' not in sys.modules


def import_client() -> Any:
  """Returns the class `reverb.Client`, without TensorFlow where possible.

  Afterwards this process cannot import the rest of Reverb.
  """
  if 'reverb' in sys.modules:  # All of it, or this was called before.
    return sys.modules['reverb.client'].Client
  # Without its library, TensorFlow would be needed to find it.
  ctypes.CDLL(os.path.join(_directory('tensorflow'), _LIBRARY))
  package = types.ModuleType('reverb')  # Its __init__ would import its server.
  package.__path__ = [_directory('reverb')]
  sys.modules['reverb'] = package
  with _placeholders('tensorflow'):
    client = importlib.import_module('reverb.client')
  return client.Client


def import_node() -> Any:
  """Returns the class `lp.ReverbNode`, which imports Reverb where it runs."""
  with light_imports.later(
      'reverb', lambda: importlib.import_module('reverb'), Table=Any,
      checkpointers=types.SimpleNamespace(CheckpointerBase=Any)):
    return importlib.import_module('launchpad.nodes.reverb.node').ReverbNode
