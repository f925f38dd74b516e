"""Shared by tests of environments: the tables of Appendix A, and statistics."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

# Copies that are stepped at once: one number for all tests, so that each
# environment is compiled once.
NUM = 1 << 16

# Height, width, [N, r, eps_term, eps_respawn] of each type, step limit.
GRID_TABLES = {
    'tabular_dense': (11, 11, [
        (2, 1, 0, 0.05), (1, -1, 0.5, 0.1), (1, -1, 0, 0.5)], 500),
    'tabular_sparse': (13, 13, [(1, 1, 1, 0), (1, -1, 1, 0)], 50),
    'tabular_long_horizon': (11, 11, [
        (2, 1, 0, 0.01), (2, -1, 0.5, 1)], 1000),
    'tabular_longer_horizon': (7, 9, [
        (2, 1, 0.1, 0.01), (5, -1, 0.8, 1)], 2000),
    'tabular_long_dense': (11, 11, [(4, 1, 0, 0.005)], 2000),
    'random_dense': (11, 11, [
        (2, 1, 0, 0.05), (1, -1, 0.5, 0.1), (1, -1, 0, 0.5)], 500),
    'random_long_horizon': (11, 11, [
        (2, 1, 0, 0.01), (2, -1, 0.5, 1)], 1000),
    'random_small': (5, 7, [(2, 1, 0, 0.05), (2, -1, 0.5, 0.1)], 500),
    'random_small_sparse': (5, 7, [(1, 1, 1, 1), (2, -1, 1, 1)], 50),
    'random_very_dense': (11, 11, [(1, 1, 0, 1)], 2000),
}
# Shortest and longest chain, noisy rewards.
CHAIN_TABLES = {
    'chain_short': (5, 30, False),
    'chain_short_noisy': (5, 30, True),
    'chain_long': (5, 50, False),
    'chain_long_noisy': (5, 50, True),
    'chain_state_distraction': (5, 30, False),
}
GRIDS = tuple(GRID_TABLES)
CHAINS = tuple(CHAIN_TABLES)
EACH_GRID = pytest.mark.parametrize('name', [
    name if name in ('tabular_dense', 'random_small')
    else pytest.param(name, marks=pytest.mark.pinned) for name in GRIDS])

# From the paper's pictures; row and column of each wall.
WALLS = {
    'tabular_longer_horizon': {
        (0, 4), (2, 4), (3, 3), (3, 4), (3, 5), (4, 4), (6, 4)},
    'tabular_long_dense': {
        (1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (6, 5), (8, 5), (9, 5),
        (10, 5), (4, 0), (4, 1), (4, 3), (4, 4), (4, 6), (4, 7), (4, 9),
        (4, 10)},
    'random_small': {(1, 2), (3, 4)},
}
# What each of the nine moves adds to row and column.
MOVES = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1), (1, -1), (1, 0),
         (1, 1))
STAY = 4


def objects(name):
  """(r, eps_term, eps_respawn) of each object."""
  return [kind[1:] for kind in GRID_TABLES[name][2] for _ in range(kind[0])]


def free_cells(name, taken=()):
  """Cells without a wall, and not in `taken`."""
  height, width = GRID_TABLES[name][:2]
  walls = WALLS.get(name, set())
  return [row * width + column for row in range(height)
          for column in range(width)
          if (row, column) not in walls and row * width + column not in taken]


def target(name, cell, direction):
  """The neighbour in a direction, None if a wall or off the grid."""
  height, width = GRID_TABLES[name][:2]
  row = cell // width + MOVES[direction][0]
  column = cell % width + MOVES[direction][1]
  if not (0 <= row < height and 0 <= column < width):
    return None
  return None if (row, column) in WALLS.get(name, set()) else (
      row * width + column)


@functools.lru_cache(maxsize=None)
def _jitted(environment, method, batched):
  axes = {'init_params': (0,), 'step': (None, 0, 0, 0)}.get(method, (None, 0))
  function = getattr(environment, method)
  return jax.jit(jax.vmap(function, axes) if batched else function)


def run(environment, method, *args, seed=0):
  """NUM independent calls of a method; the key is added, params are shared."""
  keys = jax.random.split(jax.random.PRNGKey(seed), NUM)
  result = _jitted(environment, method, True)(*args, keys)
  return jax.tree_util.tree_map(np.asarray, result)


def _fill(array, dtype):
  """Repeats [n, ...] up to NUM rows."""
  array = np.asarray(array, dtype)
  return np.resize(array, (NUM,) + array.shape[1:])


def step_each(environment, params, states, actions, seed=0):
  """Steps n given states, a tuple of [n, ...]; returns the first n of all."""
  num = len(actions)
  like = jax.eval_shape(environment.reset, params, jax.random.PRNGKey(0))[0]
  states = type(like)(*[_fill(x, y.dtype) for x, y in zip(states, like)])
  result = run(environment, 'step', params, states,
               _fill(actions, np.int32), seed=seed)
  return jax.tree_util.tree_map(lambda x: x[:num], result)


def step_many(environment, params, state, action, seed=0):
  """Steps NUM copies of one state."""
  states = [np.broadcast_to(x, (NUM,) + np.shape(x)) for x in state]
  return step_each(environment, params, states, np.full(NUM, action), seed)


def check_chance(hits, trials, chance):
  """`hits` is within five binomial standard deviations; exact for 0 and 1."""
  deviation = np.sqrt(trials * chance * (1. - chance))
  assert abs(hits - trials * chance) <= 5. * deviation, (
      f'{hits} of {trials}, expected {trials * chance} +- {deviation}')


def check_distribution(counts, chances):
  """Chi-square test at 1e-6; values of chance 0 must not occur."""
  counts, chances = np.ravel(counts), np.ravel(chances)
  np.testing.assert_allclose(chances.sum(), 1., rtol=1e-6)
  assert not counts[chances == 0.].any(), 'a value of chance 0 occurred'
  expected = counts.sum() * chances
  rare = expected < 10.  # Pooled, or left out if still too few.
  counts = np.append(counts[~rare], counts[rare].sum())
  expected = np.append(expected[~rare], expected[rare].sum())
  counts, expected = counts[expected >= 5.], expected[expected >= 5.]
  if len(counts) > 1:
    statistic = np.sum(np.square(counts - expected) / expected)
    p_value = stats.chi2.sf(statistic, len(counts) - 1)
    assert p_value > 1e-6, f'chi-square {statistic} of {len(counts)} counts'


def check_uniform(values, allowed):
  """Integer `values` are uniform over the different ones in `allowed`."""
  values, allowed = np.asarray(values).astype(int), np.asarray(list(allowed))
  chances = np.zeros(max(values.max(), allowed.max()) + 1)
  chances[allowed] = 1. / len(allowed)
  check_distribution(np.bincount(values.ravel(), minlength=len(chances)),
                     chances)


def check_uniform_pairs(first, second, allowed, num_cells):
  """All pairs of different cells of `allowed` are equally likely."""
  pairs = [a * num_cells + b for a in allowed for b in allowed if a != b]
  check_uniform(first.astype(int) * num_cells + second, pairs)
