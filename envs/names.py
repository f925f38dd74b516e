"""Names of environments for meta-training; parsed without JAX.

    chain_short                       one of `suite.ALL`
    module/PACKAGE.MODULE:FUNCTION    your own; see `docs/own_environment.md`
    gymnax/NAME                       one of gymnax's
    object/NAME                       an object given to `api.meta_train`
"""

import difflib
import re
from typing import Container

from lpg_distributed.envs import suite

MODULE, GYMNAX, OBJECT = 'module', 'gymnax', 'object'
_MODULE_PATH = re.compile(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*')
_OTHERS = 'module/PACKAGE.MODULE:FUNCTION, gymnax/NAME'


def is_module_path(path: str) -> bool:
  """Returns whether a text has the form PACKAGE.MODULE:FUNCTION."""
  return bool(_MODULE_PATH.fullmatch(path))


def is_own(name: str) -> bool:
  """Returns whether a name is that of the user's own environment."""
  kind, _, rest = str(name).partition('/')
  return (kind in (GYMNAX, OBJECT) and bool(rest)
          or kind == MODULE and is_module_path(rest))


def check_trainable(name: str, agents: Container[str]) -> None:
  """Raises a one-line ValueError if there is no environment of this name.

  Args:
    name: an item of `Config.environments`.
    agents: names that have a row of agents.
  """
  if name in suite.ALL or is_own(name):
    if name not in agents:
      raise ValueError(f'agents has no entry for {name}; see '
                       'docs/own_environment.md')
    return
  if str(name).startswith(MODULE + '/'):
    raise ValueError(f'{name!r} names no function; allowed: '
                     'module/PACKAGE.MODULE:FUNCTION')
  close = difflib.get_close_matches(str(name), suite.ALL, 1)
  hint = f'did you mean {close[0]}? ' if close else ''
  raise ValueError(f'there is no environment {name!r}; {hint}allowed: '
                   f'{", ".join(suite.ALL)}, {_OTHERS}')
