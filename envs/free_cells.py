"""Uniform choices among what is left of 0, 1, ..., F - 1."""

from __future__ import annotations

import chex
import jax.numpy as jnp


class FreeCells:
  """A list from which elements are taken, and chosen, without being stored.

  Taking one away moves the last one into the gap. Only these moves are kept, a
  few scalars each, so that all is arithmetic which XLA fuses into one loop over
  environments.
  """

  def __init__(self, size: int):
    """0, 1, ..., `size` - 1; use within one traced function."""
    self._size = jnp.int32(size)
    self._moves = []  # (gap, last): what was at `last` went to `gap`

  def remove(self, element: chex.Array, condition: chex.Array) -> None:
    """Takes `element` away, [] int32, if it is there and `condition` holds."""
    position = element
    for gap, last in self._moves:
      position = jnp.where(position == last, gap, position)
    self._size -= condition.astype(jnp.int32)
    self._moves.append((jnp.where(condition, position, -1),
                        jnp.where(condition, self._size, -2)))

  def pick(self, fraction: chex.Array) -> chex.Array:
    """The element at `fraction`, [] in [0, 1], of the list; [] int32."""
    position = (fraction * self._size).astype(jnp.int32)
    position = jnp.minimum(position, self._size - 1)
    for gap, last in reversed(self._moves):
      position = jnp.where(position == gap, last, position)
    return position
