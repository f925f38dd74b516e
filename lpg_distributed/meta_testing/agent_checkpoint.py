"""Checkpoints of meta-testing jobs: one file each, written atomically.

A file holds the leaves of a tree as arrays, and a header as JSON.
"""

import os
from typing import Any, Mapping, NamedTuple, Optional

import jax

from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed import files
from lpg_distributed.store import tree_file

FILE = 'checkpoint.npz'


class AgentCheckpointError(errors.UserError, ValueError):
  """The checkpoint is damaged; the message is one line."""


class AgentCheckpoint(NamedTuple):
  """A checkpoint on disk, of which only the header has been read."""
  path: str
  header: Mapping[str, Any]


def _name_leaves(tree: Any) -> dict[str, Any]:
  return {f'leaf_{i}': leaf
          for i, leaf in enumerate(jax.tree_util.tree_leaves(tree))}


def _damaged(path: str, error: Exception | str) -> AgentCheckpointError:
  return AgentCheckpointError(f'{path} is damaged ({error}); remove it to '
                              'begin anew')


def save(directory: str, header: Mapping[str, Any], tree: Any) -> None:
  """Replaces the checkpoint in `directory`."""
  files.write_whole(os.path.join(directory, FILE),
                    tree_file.pack(_name_leaves(tree), header))


def load(directory: str) -> Optional[AgentCheckpoint]:
  """Returns the checkpoint in `directory`; None if there is none.

  Raises:
    AgentCheckpointError: it is damaged.
  """
  path = os.path.join(directory, FILE)
  try:
    with tree_file.open_tree(path) as saved:
      return AgentCheckpoint(path, dict(saved.read_header()))
  except FileNotFoundError:
    return None
  except tree_file.TreeFileError as error:
    raise _damaged(path, error) from None


def counts(checkpoint: AgentCheckpoint, *names: str) -> list[int]:
  """Returns fields of a checkpoint's header that are whole numbers from 0.

  Raises:
    AgentCheckpointError: one is missing, or is something else.
  """
  try:
    return [fields.Integer(0, 1 << 60).check(name, checkpoint.header[name])
            for name in names]
  except KeyError as error:
    raise _damaged(checkpoint.path, f'it has no {error}') from None
  except fields.FieldError as error:
    raise _damaged(checkpoint.path, error) from None


def restore(checkpoint: AgentCheckpoint, like: Any) -> Any:
  """Reads the tree of a checkpoint.

  Args:
    checkpoint: from `load`.
    like: a tree of the same shapes, for example from `jax.eval_shape`.

  Raises:
    AgentCheckpointError: it is damaged, or its shapes are not those of `like`.
  """
  likes, path = _name_leaves(like), checkpoint.path
  try:
    with tree_file.open_tree(path) as saved:
      if ({name: tree_file.spec_of(leaf) for name, leaf in likes.items()}
          != {name: spec for name, spec in saved.specs.items()
              if name != tree_file.HEADER}):
        raise AgentCheckpointError(
            f'{path} belongs to another agent or environment; remove it to '
            'begin anew')
      leaves = saved.read_leaves(likes)
  except FileNotFoundError:
    raise AgentCheckpointError(f'there is no file {path} any more') from None
  except tree_file.TreeFileError as error:
    raise _damaged(path, error) from None
  return jax.tree_util.tree_unflatten(
      jax.tree_util.tree_structure(like), [leaves[name] for name in likes])
