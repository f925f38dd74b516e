"""Reduces lifetimes to final returns and to learning curves of P points.

Each point of a curve is a mean over one of P equal parts of the updates.
"""

from typing import Any, Sequence

import numpy as np

from lpg_distributed.core import train_agents


def bins(num_updates: int, points: int) -> np.ndarray:
  """Returns the bounds, [P+1], that divide N updates into P parts.

  P is `points`, but at most N.
  """
  return np.linspace(0, num_updates, min(points, num_updates) + 1).astype(int)


def curve(lifetimes: train_agents.Lifetimes, bounds: np.ndarray) -> np.ndarray:
  """Mean return of the episodes of each part, [P, L]; NaN where none ended."""
  counts = np.asarray(lifetimes.num_episodes, np.float64)
  sums = np.asarray(lifetimes.episode_return, np.float64) * counts
  over_parts = lambda x: np.add.reduceat(x, bounds[:-1], axis=0)
  with np.errstate(invalid='ignore', divide='ignore'):
    return over_parts(sums) / over_parts(counts)


def _nan_statistics(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard error over lifetimes, [P] each, ignoring NaN."""
  finite = np.isfinite(curves)
  count = finite.sum(axis=1)
  safe = np.where(finite, curves, 0.)
  with np.errstate(invalid='ignore', divide='ignore'):
    mean = safe.sum(axis=1) / count
    square = np.where(finite, (curves - mean[:, None]) ** 2, 0.).sum(axis=1)
    return mean, np.sqrt(square / (count - 1.) / count)


def row(lifetimes: Sequence[train_agents.Lifetimes], bounds: np.ndarray,
        num: int) -> dict[str, Any]:
  """Reduces the lifetimes of a rule to the numbers that results store.

  Returns:
    `final` and `whole` [n]: the final return of each lifetime, and the mean
    over its curve. `mean` and `standard_error` [P]: those of the curves.
  """
  curves = np.concatenate(
      [curve(some, bounds) for some in lifetimes], axis=1)[:, :num]
  final = np.concatenate(
      [np.asarray(some.final_return) for some in lifetimes])[:num]
  mean, error = _nan_statistics(curves)
  return {'final': final, 'mean': mean, 'standard_error': error,
          'whole': _nan_statistics(curves.T)[0]}
