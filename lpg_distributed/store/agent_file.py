"""An agent in training as a file: an `.npz` of its arrays, JSON beside them."""

from typing import Any, NamedTuple, Optional

from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed.store import tree_file

_FORMAT = 'lpg-agent-1'


class AgentFileError(errors.UserError, ValueError):
  """A file that is no agent; the message is one line."""


class AgentFile(NamedTuple):
  state: Any  # the tree that was saved
  info: dict[str, Any]


def save(path: str, state: Any, **info: Any) -> None:
  """Writes a tree of arrays whole or not at all; `info` must be JSON."""
  files.write_whole(path, tree_file.pack(
      tree_file.named_leaves(state), {'format': _FORMAT, 'info': info}))


def load(path: str, like: Any) -> Optional[AgentFile]:
  """Reads the file that `save` wrote; None if there is no file.

  Args:
    path: of the file.
    like: a tree with the structure, shapes and types that are expected, as
      `jax.eval_shape` gives. The file may hold more.

  Raises:
    AgentFileError: the file is damaged, or of another agent.
  """
  try:
    with tree_file.open_tree(path) as saved:
      header = saved.read_header()
      if header.get('format') != _FORMAT or 'info' not in header:
        raise tree_file.TreeFileError(
            f'its format is {header.get("format")!r}')
      return AgentFile(saved.read_tree(like, partial=True), header['info'])
  except FileNotFoundError:
    return None
  except tree_file.TreeFileError as error:
    raise AgentFileError(f'{path} is not this training\'s agent ({error}); '
                         'remove it to begin anew') from None
