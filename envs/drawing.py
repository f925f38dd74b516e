"""Draws of lifetimes' constants, shared by the kinds beyond the paper."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def number(key: chex.PRNGKey, bounds: tuple[float, float],
           shape: tuple[int, ...] = ()) -> chex.Array:
  """Draws real numbers uniformly between two bounds."""
  return jax.random.uniform(key, shape, jnp.float32, *bounds)


def integer(key: chex.PRNGKey, bounds: tuple[int, int]) -> chex.Array:
  """Draws a whole number uniformly; both bounds are included."""
  return jax.random.randint(key, (), bounds[0], bounds[1] + 1, jnp.int32)


def fractions(words: chex.Array) -> chex.Array:
  """Converts uniform 32-bit words to multiples of 2^-24 in [0, 1)."""
  return (words >> 8).astype(jnp.float32) * 2. ** -24


def index(fraction: chex.Array, num: chex.Array) -> chex.Array:
  """Converts a uniform number in [0, 1) to one of 0 to num - 1, int32."""
  return jnp.minimum((fraction * num).astype(jnp.int32), num - 1)
