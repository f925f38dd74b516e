"""Computes means with confidence intervals, for results and tables."""

from typing import Any, Optional, Sequence

import numpy as np

CONFIDENCE = 0.95


def summary(samples: Sequence[float]) -> dict[str, Any]:
  """Computes mean, standard error and Student's t interval of samples.

  Samples must be independent. Those that are not finite are counted in `num`
  and `not_finite` and otherwise ignored.

  Returns:
    `mean`, `standard_error`, `low` and `high` (95 %), `num`, `not_finite`.
    Statistics that need more samples are None.
  """
  samples = np.asarray(samples, np.float64)
  finite = samples[np.isfinite(samples)]
  result: dict[str, Any] = {
      'mean': float(finite.mean()) if len(finite) else None,
      'standard_error': None, 'low': None, 'high': None,
      'num': len(samples), 'not_finite': len(samples) - len(finite)}
  if len(finite) > 1:
    error = float(standard_error(finite))
    half = float(half_width(error, len(finite)))
    result.update(standard_error=error, low=result['mean'] - half,
                  high=result['mean'] + half)
  return result


def standard_error(samples: np.ndarray, axis: int = -1) -> np.ndarray:
  """Returns the standard error of the mean of two or more samples."""
  return np.std(samples, axis=axis, ddof=1) / np.sqrt(np.shape(samples)[axis])


def half_width(standard_error: Any, num: int) -> np.ndarray:
  """Returns half of the 95 % interval of a mean of `num` samples.

  It is Student's t times the standard error, and NaN for fewer than two
  samples. None counts as NaN.

  Args:
    standard_error: a number or an array.
    num: number of samples.
  """
  from scipy import stats  # Imported here, since its import is slow.
  error = np.asarray(standard_error, np.float64)
  if num < 2:
    return np.full(error.shape, np.nan)
  return float(stats.t.ppf(0.5 + CONFIDENCE / 2., num - 1)) * error


def compare(one: dict[str, Any], other: dict[str, Any]) -> int:
  """Compares the intervals of two summaries.

  Returns:
    1 if the interval of `one` lies above that of `other`, -1 if below, 0 if
    they overlap or one is unknown.
  """
  bounds = [one['low'], one['high'], other['low'], other['high']]
  if any(bound is None for bound in bounds):
    return 0
  return int(one['low'] > other['high']) - int(one['high'] < other['low'])


def tally(compared: Sequence[int]) -> str:
  """Counts the results of `compare` over kinds, as text."""
  return (f'of {len(compared)} kinds: above on {compared.count(1)}, below on '
          f'{compared.count(-1)}, intervals overlap on {compared.count(0)}.')


def text(found: Optional[dict[str, Any]]) -> str:
  """Formats a summary for a table: mean and half of the interval."""
  if found is None or found['mean'] is None:
    return '-'
  if found['low'] is None:
    return f'{found["mean"]:.3g}'
  return f'{found["mean"]:.3g} ± {half_text(found["high"] - found["mean"])}'


def half_text(half: float) -> str:
  """Formats half of an interval with two digits, large ones as integers."""
  text_ = f'{half:.2g}'
  return f'{float(text_):g}' if 'e+' in text_ else text_
