"""An agent as a file: `.npz` with its arrays and, as JSON, what it is."""

import io
import json
from typing import Any, NamedTuple, Optional

import jax
import numpy as np

from lpg_distributed import errors
from lpg_distributed.store import files

_FORMAT = 'lpg-agent-1'


class AgentFileError(errors.UserError, ValueError):
  """A file that is no agent; the message is one line."""


class AgentFile(NamedTuple):
  state: Any  # the tree that was saved
  info: dict[str, Any]


def save(path: str, state: Any, **info: Any) -> None:
  """Writes a tree of arrays whole or not at all; `info` must be JSON."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  buffer = io.BytesIO()
  np.savez(buffer, header=np.array(json.dumps(
      {'format': _FORMAT, 'info': info})),
      **{jax.tree_util.keystr(name): np.asarray(leaf)
         for name, leaf in leaves})
  files.write_whole(path, buffer.getvalue())


def load(path: str, like: Any) -> Optional[AgentFile]:
  """Reads what `save` wrote; None if there is no file.

  Args:
    path: of the file.
    like: a tree with the structure, shapes and types that are expected, as
      `jax.eval_shape` gives.

  Raises:
    AgentFileError: it is damaged, or another agent's.
  """
  leaves, tree = jax.tree_util.tree_flatten_with_path(like)
  names = [jax.tree_util.keystr(name) for name, _ in leaves]
  try:
    with np.load(path, allow_pickle=False) as saved:
      header = json.loads(saved['header'].item())
      if header['format'] != _FORMAT:
        raise ValueError(f'its format is {header["format"]!r}')
      arrays = {name: saved[name] for name in names}
  except FileNotFoundError:
    return None
  # Damage shows as nearly any error of zipfile, zlib, NumPy or JSON.
  except Exception as error:  # pylint: disable=broad-except
    reason = ' '.join((str(error) or type(error).__name__).split())
    raise AgentFileError(f'{path} is not this training\'s agent ({reason}); '
                         'remove it to begin anew') from None
  for name, (_, leaf) in zip(names, leaves):
    found = arrays[name]
    if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
      raise AgentFileError(
          f'{path}: {name} is {found.dtype}{list(found.shape)}; this training '
          f'needs {leaf.dtype}{list(leaf.shape)}; remove it to begin anew')
  return AgentFile(
      jax.tree_util.tree_unflatten(tree, [arrays[name] for name in names]),
      header['info'])
