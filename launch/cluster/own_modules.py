"""Copies the modules of own environments to where nodes import them.

An own environment is named `module/PACKAGE.MODULE:FUNCTION`.
"""

import os
import shutil
from typing import Sequence

from lpg_distributed.envs import names
from lpg_distributed.envs import user_module
from lpg_distributed.launch import command


def copy(environments: Sequence[str], directory: str) -> None:
  """Copies the file or top-level package of each of the user's environments.

  Modules that it imports are not copied: they must be installed on the hosts or
  be in their PYTHONPATH. Installed modules are not copied either.

  Args:
    environments: names of environments; others than own ones are skipped.
    directory: a directory in the nodes' module path.

  Raises:
    UsageError: a module is not found, or its name is one of the program's.
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
      continue  # It was copied before.
    if os.path.isdir(source):
      shutil.copytree(source, target, dirs_exist_ok=True,
                      ignore=shutil.ignore_patterns('__pycache__', '.*'))
    else:
      shutil.copyfile(source, target)
