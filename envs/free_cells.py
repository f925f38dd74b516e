"""Uniform choices among the remaining elements of 0, 1, ..., F - 1."""

from __future__ import annotations

import chex
import jax.numpy as jnp


class FreeCells:
  """A list of cells from which elements are removed and drawn.

  Removing an element moves the last one into the gap. The list itself is not
  stored, only these moves, as scalars. So XLA fuses all operations into one
  loop over environments.
  """

  def __init__(self, size: int):
    """Starts with 0, 1, ..., `size` - 1; use within one traced function."""
    self._size = jnp.int32(size)
    self._moves = []  # (gap, last): the element at `last` was moved to `gap`

  def remove(self, element: chex.Array, condition: chex.Array) -> None:
    """Removes `element`, [] int32, if it is present and `condition` holds."""
    position = element
    for gap, last in self._moves:
      position = jnp.where(position == last, gap, position)
    self._size -= condition.astype(jnp.int32)
    self._moves.append((jnp.where(condition, position, -1),
                        jnp.where(condition, self._size, -2)))

  def pick(self, fraction: chex.Array) -> chex.Array:
    """Returns the element at the position `fraction` * size, [] int32.

    Args:
      fraction: [] in [0, 1].
    """
    position = (fraction * self._size).astype(jnp.int32)
    position = jnp.minimum(position, self._size - 1)
    for gap, last in reversed(self._moves):
      position = jnp.where(position == gap, last, position)
    return position
