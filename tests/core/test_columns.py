"""Columns: the split equals JAX's own, and so do its two derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.core import columns

_SIZES = (3, 1, 4)


def _plain(x, sizes):
  return jax.lax.split(x, sizes, axis=x.ndim - 1)


def _gradient(split, x):
  """A first derivative that is not linear in `x`."""
  def total(x):
    a, b, c = split(x, _SIZES)
    return jnp.sum(jnp.sin(a) * b) + jnp.sum(c ** 3)

  return jax.grad(total)(x)


def _second(split, x):
  return jax.grad(lambda x: jnp.sum(_gradient(split, x) ** 2))(x)


@pytest.mark.parametrize('shape', [(8,), (5, 8), (4, 5, 8), (4, 2, 5, 8)])
def test_a_split_and_its_derivatives_equal_those_of_jax(shape):
  x = jax.random.normal(jax.random.PRNGKey(0), shape)
  for ours, theirs in zip(columns.split(x, _SIZES), _plain(x, _SIZES)):
    np.testing.assert_array_equal(ours, theirs)
  for derivative in (_gradient, _second):
    compute = lambda split: jax.jit(functools.partial(derivative, split))
    expected = compute(_plain)(x)
    np.testing.assert_allclose(
        compute(columns.split)(x), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(compute(columns.split))(x[None])[0], expected, rtol=1e-6,
        atol=1e-6)


def test_a_cpu_joins_cotangents_in_a_loop_chosen_at_compile_time():
  text = jax.jit(functools.partial(_gradient, columns.split)).lower(
      jnp.ones((4, 5, 8))).compile().as_text()
  assert ' while(' in text
  assert 'conditional' not in text
