"""Loads `module/PACKAGE.MODULE:FUNCTION`, and finds its source files."""

import importlib
import importlib.util
import os
import sys
import sysconfig
from typing import Any, Callable, Optional

from lpg_distributed.envs import host
from lpg_distributed.envs import names


def one_line(error: BaseException) -> str:
  """Formats an error of the user's code: type and message."""
  text = ' '.join(str(error).split())
  if len(text) > 300:
    text = text[:300] + ' ...'
  return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _search_here() -> None:
  """Adds the current directory to the import path, as `python -m` does."""
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())


def load_function(path: str) -> Callable[..., Any]:
  """The function at PACKAGE.MODULE:FUNCTION.

  Raises:
    ValueError: there is none, or its module cannot be imported; the message
      is one line.
  """
  module_name, _, function_name = path.partition(':')
  if not names.is_module_path(path):
    raise ValueError(f'module/{path} names no function; allowed: '
                     'module/PACKAGE.MODULE:FUNCTION')
  _search_here()
  try:
    module = importlib.import_module(module_name)
  except (Exception, SystemExit) as error:  # The module may raise any error.
    raise ValueError(
        f'module {module_name!r} cannot be imported ({one_line(error)}); it is '
        'looked for in the current directory and on PYTHONPATH') from None
  function = getattr(module, function_name, None)
  if not callable(function):
    raise ValueError(f'module {module_name!r} has no function '
                     f'{function_name!r}')
  return function


def call(function: Callable[..., Any], path: str, *args: Any,
         **kwargs: Any) -> Any:
  """Calls the user's function that makes an environment.

  Raises:
    EnvironmentFailure: it raised.
  """
  try:
    return function(*args, **kwargs)
  except Exception as error:  # The function may raise any error.
    raise host.EnvironmentFailure(
        f'module/{path} raised {one_line(error)}') from None


def source_to_copy(path: str) -> Optional[str]:
  """Returns the file or package directory that another host needs.

  None for what is installed with Python's packages, which other hosts are
  expected to have.

  Raises:
    ValueError: there is no such module; the message is one line.
  """
  _search_here()
  top = path.partition(':')[0].partition('.')[0]
  try:
    spec = importlib.util.find_spec(top)
  except (ImportError, ValueError):
    spec = None
  if spec is None:
    raise ValueError(f'module {top!r} is not found in the current directory or '
                     'on PYTHONPATH')
  found = (list(spec.submodule_search_locations)[0]
           if spec.submodule_search_locations else spec.origin)
  installed = [sysconfig.get_path(name) for name in (
      'purelib', 'platlib', 'stdlib', 'platstdlib')]
  if (not os.path.exists(found or '')
      or any(os.path.realpath(found).startswith(os.path.realpath(path) + os.sep)
             for path in installed)):
    return None
  return found
