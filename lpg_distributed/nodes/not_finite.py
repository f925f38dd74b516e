"""Logs lifetimes and shards that are not finite; ends the run if they persist.

`core/lifetime.py` counts the gradient of such a lifetime or shard as zero.
"""

import json
import math
import os
from typing import Any, Mapping, Sequence

from absl import logging

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed import types

_MOST_LOGGED = 5  # cases of one meta-step
_MOST_KEPT = 1000  # cases in a snapshot, the newest


class TooManyNotFinite(errors.UserError, RuntimeError):
  """Ends the run: too many meta-steps in a row had numbers not finite."""


def describe_hyper(hyper: types.LifetimeHyperparameters
                   ) -> dict[str, list[float]]:
  """Hyperparameters of a shard's lifetimes: name to a list over slots."""
  return {name: [float(x) for x in getattr(hyper, name)]
          for name in ('learning_rate', 'kl_cost', 'gamma', 'beta_0')}


def find_cases(gradients: Sequence[types.MetaGradient],
               specs: Mapping[int, config_lib.ShardSpec]
               ) -> list[dict[str, Any]]:
  """Finds lifetimes and shards whose numbers are not finite.

  Args:
    gradients: gradients of one meta-step.
    specs: shards by number.

  Returns:
    One dict per case: where it arose, and its hyperparameters. `slot` is the
    index of the lifetime, or 'sum' for the shard's summed gradient.
  """
  cases = []
  for gradient in gradients:
    metrics = gradient.metrics
    where = {'meta_step': gradient.meta_step, 'shard': gradient.shard_id,
             'environment': specs[gradient.shard_id].environment}
    hyper = metrics.get('hyper', {})
    for slot, bad in enumerate(metrics['not_finite']):
      if bad:
        cases.append({**where, 'slot': slot, **{
            name: values[slot] for name, values in hyper.items()}})
    if metrics['gradient_not_finite']:
      cases.append({**where, 'slot': 'sum', **hyper})
  return cases


class Watch:
  """Counts consecutive meta-steps with a case; keeps the newest cases."""

  def __init__(self, config: config_lib.Config, run_dir: str):
    self._limit = config.run.not_finite_limit
    self._run_dir = run_dir
    self._cases: list[dict[str, Any]] = []
    self._in_a_row = 0

  @property
  def exceeded(self) -> bool:
    return self._in_a_row >= self._limit

  def see(self, cases: Sequence[dict[str, Any]], norm: float) -> None:
    """Counts one meta-step and logs its first cases.

    Args:
      cases: result of `find_cases`.
      norm: norm of the meta-gradient.
    """
    if not math.isfinite(norm):
      cases = [*cases, {'slot': 'the whole gradient'}]
    for case in cases[:_MOST_LOGGED]:
      logging.warning('not finite, and counted as zero: %s', ', '.join(
          f'{name} {value}' for name, value in case.items()))
    self._cases = [*self._cases, *cases][-_MOST_KEPT:]
    self._in_a_row = self._in_a_row + 1 if cases else 0

  def write(self, meta_step: int) -> str:
    """Writes the newest cases below the run; returns the file's path."""
    directory = os.path.join(self._run_dir, 'inspection')
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f'not_finite_{meta_step:08d}.json')
    files.write_whole(path, json.dumps(self._cases, indent=1).encode())
    return path

  def error(self, path: str) -> TooManyNotFinite:
    """Returns the error that ends the run; `write` made the file."""
    last = self._cases[-1] if self._cases else {}
    return TooManyNotFinite(
        f'in {self._in_a_row} meta-steps in a row something was not finite '
        f'(run.not_finite_limit = {self._limit}), the last in '
        f'{last.get("environment", "the whole gradient")}; {path} has the '
        'cases, and the last checkpoint the shards')
