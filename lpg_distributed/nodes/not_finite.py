"""What to do when numbers stop being numbers.

A lifetime or a shard whose numbers are not finite counts as zero where it
arises (`core/lifetime.py`). Here such cases are named in the log, and when
they do not cease, the run is ended with what is needed to look into it.
"""

import json
import math
import os
from typing import Any, Mapping, Sequence

from absl import logging

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed import types
from lpg_distributed.store import files

_MOST_LOGGED = 5  # cases of one meta-step
_MOST_KEPT = 1000  # cases in a snapshot, the newest


class TooManyNotFinite(errors.UserError, RuntimeError):
  """The run ends, since what it computes is not finite again and again."""


def describe_hyper(hyper: types.HyperParams) -> dict[str, list[float]]:
  """The lifetimes' hyperparameters, each a list over slots."""
  return {name: [float(x) for x in getattr(hyper, name)]
          for name in ('alpha_lr', 'alpha_y', 'gamma', 'beta_0')}


def find_cases(gradients: Sequence[types.MetaGradient],
               specs: Mapping[int, config_lib.ShardSpec]
               ) -> list[dict[str, Any]]:
  """Each lifetime that was not finite, and each shard's sum that was not."""
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
  """Counts meta-steps in a row in which something was not finite."""

  def __init__(self, config: config_lib.Config, run_dir: str):
    self._limit = config.run.not_finite_limit
    self._run_dir = run_dir
    self._cases: list[dict[str, Any]] = []
    self._in_a_row = 0

  @property
  def exceeded(self) -> bool:
    return self._in_a_row >= self._limit

  def see(self, cases: Sequence[dict[str, Any]], norm: float) -> None:
    """One meta-step: its cases, and the norm of its whole gradient."""
    if not math.isfinite(norm):
      cases = [*cases, {'slot': 'the whole gradient'}]
    for case in cases[:_MOST_LOGGED]:
      logging.warning('not finite, and counted as zero: %s', ', '.join(
          f'{name} {value}' for name, value in case.items()))
    self._cases = [*self._cases, *cases][-_MOST_KEPT:]
    self._in_a_row = self._in_a_row + 1 if cases else 0

  def write(self, meta_step: int) -> str:
    """The cases, for inspection; returns the file's path."""
    directory = os.path.join(self._run_dir, 'inspection')
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f'not_finite_{meta_step:08d}.json')
    files.write_whole(path, json.dumps(self._cases, indent=1).encode())
    return path

  def error(self, path: str) -> TooManyNotFinite:
    last = self._cases[-1] if self._cases else {}
    return TooManyNotFinite(
        f'in {self._in_a_row} meta-steps in a row something was not finite '
        f'(run.not_finite_limit = {self._limit}), the last in '
        f'{last.get("environment", "the whole gradient")}; {path} has the '
        'cases, and the last checkpoint the shards')
