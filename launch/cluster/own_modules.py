"""Copies modules of `module/PACKAGE.MODULE:FUNCTION` to where nodes import."""

import os
import shutil
from typing import Sequence

from lpg_distributed.envs import names
from lpg_distributed.envs import user_module
from lpg_distributed.launch import command


def copy(environments: Sequence[str], directory: str) -> None:
  """Copies the file, or the whole top-level package, of each own environment.

  Not what it imports itself: that has to be installed on the hosts, or found
  through their PYTHONPATH. An installed module is not copied either.

  Args:
    environments: names of any kind.
    directory: on the nodes' path.

  Raises:
    UsageError: a module is not found, or the program has one of that name.
  """
  for name in environments:
    kind, _, path = name.partition('/')
    if kind != names.MODULE:
      continue
    try:
      source = user_module.source_to_copy(path)
    except ValueError as error:
      raise command.UsageError(f'{name}: {error}') from None
    if source is None:
      continue
    target = os.path.join(directory, os.path.basename(source))
    if os.path.basename(source) == 'lpg_distributed':
      continue  # It is there already.
    if os.path.isdir(source):
      shutil.copytree(source, target, dirs_exist_ok=True,
                      ignore=shutil.ignore_patterns('__pycache__', '.*'))
    else:
      shutil.copyfile(source, target)
