"""The state of a meta-test as one file, whole or not there.

Leaves of a tree as arrays, without pickles, and a JSON header.
"""

import io
import json
import os
from typing import Any, Mapping, NamedTuple, Optional

import jax
import numpy as np

from lpg_distributed import errors
from lpg_distributed.store import files

FILE = 'checkpoint.npz'


class CheckpointError(errors.UserError, ValueError):
  """A damaged checkpoint; the message is one line."""


class Checkpoint(NamedTuple):
  header: Mapping[str, Any]
  leaves: list[np.ndarray]


def save(directory: str, header: Mapping[str, Any], tree: Any) -> None:
  """Writes aside and renames, so that the last one is there till then."""
  leaves = [np.asarray(x) for x in jax.tree_util.tree_leaves(tree)]
  buffer = io.BytesIO()
  np.savez(buffer, header=np.array(json.dumps(header)),
           **{f'leaf_{i}': leaf for i, leaf in enumerate(leaves)})
  files.write_whole(os.path.join(directory, FILE), buffer.getvalue())


def load(directory: str) -> Optional[Checkpoint]:
  """The directory's checkpoint; None if there is none.

  Raises:
    CheckpointError: it is damaged.
  """
  path = os.path.join(directory, FILE)
  if not os.path.exists(path):
    return None
  try:
    with np.load(path, allow_pickle=False) as saved:
      header = json.loads(saved['header'].item())
      return Checkpoint(header, [saved[f'leaf_{i}']
                                 for i in range(len(saved.files) - 1)])
  except Exception as error:  # Damage shows as nearly any error.
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise CheckpointError(f'{path} is damaged ({reason}); remove it to begin '
                          'anew') from None


def restore(directory: str, checkpoint: Checkpoint, like: Any) -> Any:
  """The tree of a checkpoint.

  Args:
    directory: for messages.
    checkpoint: from `load`.
    like: a tree of the same shapes, for example from `jax.eval_shape`.

  Raises:
    CheckpointError: it is of something else.
  """
  leaves, treedef = jax.tree_util.tree_flatten(like)
  if ([(x.shape, x.dtype) for x in leaves]
      != [(x.shape, x.dtype) for x in checkpoint.leaves]):
    raise CheckpointError(f'{os.path.join(directory, FILE)} is of another '
                          'agent or environment; remove it to begin anew')
  return jax.tree_util.tree_unflatten(treedef, checkpoint.leaves)
