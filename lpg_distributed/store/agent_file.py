"""Files of agents in training: arrays and a JSON header in one `.npz`."""

from typing import Any, NamedTuple, Optional

from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed.store import tree_file

_FORMAT = 'lpg-agent-1'


class AgentFileError(errors.UserError, ValueError):
  """The file does not hold an agent; the message is one line."""


class AgentFile(NamedTuple):
  state: Any  # the tree that was saved
  info: dict[str, Any]


def save(path: str, state: Any, **info: Any) -> None:
  """Writes a tree of arrays atomically; `info` has JSON types."""
  files.write_whole(path, tree_file.pack(
      tree_file.named_leaves(state), {'format': _FORMAT, 'info': info}))


def load(path: str, like: Any) -> Optional[AgentFile]:
  """Reads a file of `save`; returns None if there is no file.

  Args:
    path: path of the file.
    like: a tree with the expected structure, shapes and types, as from
      `jax.eval_shape`. The file may hold additional arrays.

  Raises:
    AgentFileError: the file is damaged, or belongs to another agent.
  """
  try:
    with tree_file.open_tree(path) as saved:
      header = saved.read_header()
      if header.get('format') != _FORMAT or not isinstance(
          header.get('info'), dict):
        raise tree_file.TreeFileError(
            f'its format is {header.get("format")!r}')
      return AgentFile(saved.read_tree(like, partial=True), header['info'])
  except FileNotFoundError:
    return None
  except tree_file.TreeFileError as error:
    raise AgentFileError(f'{path} is not this training\'s agent ({error}); '
                         'remove it to begin anew') from None
