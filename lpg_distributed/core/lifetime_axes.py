"""Functions on trees of lifetimes, along the axis of the lifetimes.

It is axis 1 of the leaves of a trajectory [T, L, ...], and axis 0 of all other
leaves.
"""

import functools
from typing import Callable, TypeVar

import chex
import jax
import jax.numpy as jnp

from lpg_distributed.core import meta_gradient

PROGRESS = meta_gradient.Progress(0, 0, 0, 0, 0, 1, 0)

State = TypeVar('State')  # with a `progress`, as `lifetime.ShardState`


def over_state(function: Callable[..., chex.Array], *states: State) -> State:
  """Applies `function(*leaves, axis)` to each leaf and its lifetimes' axis."""
  over = lambda axis, *trees: jax.tree_util.tree_map(
      lambda *leaves: function(*leaves, axis), *trees)
  progress = [state.progress for state in states]
  trajectory = over(1, *(p.trajectory for p in progress))
  progress = over(0, *(p._replace(trajectory=()) for p in progress))
  return over(0, *(state._replace(progress=()) for state in states))._replace(
      progress=progress._replace(trajectory=trajectory))


def select(choose: chex.Array, new: chex.Array, old: chex.Array,
           axis: int) -> chex.Array:
  """Selects `new` where `choose` [L] holds, else `old`, per lifetime."""
  shape = (1,) * axis + (-1,) + (1,) * (new.ndim - axis - 1)
  return jnp.where(choose.reshape(shape), new, old)


def split(num_chunks: int, x: chex.Array, axis: int = 0) -> chex.Array:
  """Splits lifetimes into C chunks: [.., L, ..] to [C, .., L / C, ..]."""
  shape = x.shape[:axis] + (num_chunks, -1) + x.shape[axis + 1:]
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def join(x: chex.Array, axis: int = 0) -> chex.Array:
  """The inverse of `split`."""
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(x.shape[:axis] + (-1,) + x.shape[axis + 2:])


def each(together: Callable, task: meta_gradient.Task,
         progress: meta_gradient.Progress, keys: chex.PRNGKey):
  """Applies a function of several lifetimes to each lifetime separately.

  Args:
    together: maps (task, progress, keys) of n lifetimes to the sum of their
      gradients [1, P], their progress and their statistics.
    task: leaves [L, ...].
    progress: leaves [L, ...].
    keys: [L, ...].

  Returns:
    One gradient per lifetime, [L, P], progress and statistics.
  """
  if keys.shape[0] == 1:
    return together(task, progress, keys)

  def change(function, progress):
    return meta_gradient.Progress(*(
        jax.tree_util.tree_map(lambda x, axis=axis: function(x, axis), part)
        for part, axis in zip(progress, PROGRESS)))

  def one(task, progress, keys):
    first = functools.partial(jax.tree_util.tree_map, lambda x: x[0])
    gradient, progress, stats = together(
        jax.tree_util.tree_map(lambda x: x[None], task),
        change(jnp.expand_dims, progress), keys[None])
    return gradient[0], change(jnp.squeeze, progress), first(stats)

  return jax.vmap(one, (0, PROGRESS, 0), (0, PROGRESS, 0))(
      task, progress, keys)
