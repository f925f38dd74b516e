"""Splits the last axis of an array, so that its reverse pass is fast on a CPU.

That reverse pass joins the cotangents of the parts. XLA fuses a concatenation
with all that computes the parts, to one loop without vector instructions. A
loop over the first axis keeps them apart.
"""

import functools
from typing import Sequence

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def split(x: chex.Array, sizes: tuple[int, ...]) -> Sequence[chex.Array]:
  """Splits [..., sum(sizes)] into arrays [..., size]."""
  return jax.lax.split(x, sizes, axis=x.ndim - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _join(parts: Sequence[chex.Array], sizes: tuple[int, ...]) -> chex.Array:
  """The inverse of `split`."""
  del sizes
  concatenate = functools.partial(jnp.concatenate, axis=-1)
  if len(parts) == 1 or parts[0].ndim < 3:
    return concatenate(parts)
  return jax.lax.platform_dependent(
      parts, cpu=functools.partial(jax.lax.map, concatenate),
      default=concatenate)


split.defvjp(lambda x, sizes: (split(x, sizes), None),
             lambda sizes, _, parts: (_join(parts, sizes),))
_join.defvjp(lambda parts, sizes: (_join(parts, sizes), None),
             lambda sizes, _, x: (split(x, sizes),))
