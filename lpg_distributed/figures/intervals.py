"""Means with intervals, as results and tables show them."""

import math
from typing import Any, Optional, Sequence

import numpy as np

CONFIDENCE = 0.95


def summary(samples: Sequence[float]) -> dict[str, Any]:
  """Mean, standard error and Student's t interval of independent samples.

  Samples that are not finite count in `num` and `not_finite`; the rest is of
  the others.

  Returns:
    `mean`, `standard_error`, `low` and `high` (95 %), `num`, `not_finite`.
    What too few samples do not give is None.
  """
  from scipy import stats  # Here, since it takes its time to import.
  samples = np.asarray(samples, np.float64)
  finite = samples[np.isfinite(samples)]
  result: dict[str, Any] = {
      'mean': float(finite.mean()) if len(finite) else None,
      'standard_error': None, 'low': None, 'high': None,
      'num': len(samples), 'not_finite': len(samples) - len(finite)}
  if len(finite) > 1:
    error = float(finite.std(ddof=1)) / math.sqrt(len(finite))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2., len(finite) - 1)) * error
    result.update(standard_error=error, low=result['mean'] - half,
                  high=result['mean'] + half)
  return result


def compare(one: dict[str, Any], other: dict[str, Any]) -> int:
  """1 or -1 where `one` is above or below with intervals apart, else 0."""
  bounds = [one['low'], one['high'], other['low'], other['high']]
  if any(bound is None for bound in bounds):
    return 0
  return int(one['low'] > other['high']) - int(one['high'] < other['low'])


def tally(compared: Sequence[int]) -> str:
  """How often `compare` said what, of as many kinds."""
  return (f'of {len(compared)} kinds: above on {compared.count(1)}, below on '
          f'{compared.count(-1)}, intervals overlap on {compared.count(0)}.')


def text(found: Optional[dict[str, Any]]) -> str:
  """As a table has it: mean and half of the interval."""
  if found is None or found['mean'] is None:
    return '-'
  if found['low'] is None:
    return f'{found["mean"]:.3g}'
  return f'{found["mean"]:.3g} ± {found["high"] - found["mean"]:.2g}'
