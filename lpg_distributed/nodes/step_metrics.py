"""Turns shards' metrics into a row of the log and returns for the bandit.

A shard's metrics are sent as plain lists, one number per lifetime, under the
names of the fields of `core.lifetime.ShardMetrics`.
"""

import collections
import math
from typing import Any, Mapping, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed import types

# Fields of ShardMetrics whose mean over finite lifetimes is logged, and the
# names in the log.
_MEANS = {
    'policy_entropy': 'entropy',
    'y_entropy': 'y_entropy',
    'kl': 'kl',
    'pi_hat_square': 'pi_hat_square',
    'y_hat_square': 'y_hat_square',
    'loss': 'loss',
}

# Counters that each row contains.
_COUNTERS = ('env_steps', 'resets', 'elapsed_s', 'stale', 'duplicates',
             'superseded')


def encode(metrics: Any) -> dict[str, Any]:
  """Converts a `ShardMetrics` of arrays to plain lists and numbers."""
  return {name: getattr(metrics, name).tolist() for name in metrics._fields}


def final_returns(gradient: types.MetaGradient,
                  spec: config_lib.ShardSpec) -> list[types.FinalReturn]:
  """Final returns of the lifetimes that ended in a window, by slot."""
  metrics = gradient.metrics
  return [
      types.FinalReturn(gradient.meta_step, spec.shard_id, slot,
                        spec.environment, metrics['arm'][slot],
                        metrics['final_return'][slot])
      for slot in range(spec.num_lifetimes) if metrics['reported'][slot]]


def _mean(values: Sequence[float]) -> float | None:
  finite = [v for v in values if math.isfinite(v)]
  return sum(finite) / len(finite) if finite else None


def count_resets(gradients: Sequence[types.MetaGradient]) -> dict[str, int]:
  """Counts lifetimes that ended before their last window, by reason."""
  total = lambda name: sum(sum(g.metrics[name]) for g in gradients)
  return {
      'collapsed': total('collapsed'),
      'not_finite': total('not_finite'),
      'gradients_not_finite': sum(
          g.metrics['gradient_not_finite'] for g in gradients),
  }


def of_whole_step(gradients: Sequence[types.MetaGradient], meta_step: int,
                  resets: Mapping[str, int],
                  counters: Mapping[str, float]) -> dict[str, float]:
  """Columns that are not per environment: counts, and age of gradients."""
  ages = [meta_step - g.meta_step for g in gradients]
  return {**{f'resets/{name}': count for name, count in resets.items()},
          **{name: counters[name] for name in _COUNTERS},
          'staleness': sum(ages) / len(ages)}


def summarise(gradients: Sequence[types.MetaGradient],
              specs: Mapping[int, config_lib.ShardSpec]) -> dict[str, float]:
  """Summarises one meta-step by environment.

  Args:
    gradients: gradients of one meta-update.
    specs: shards by number.

  Returns:
    `return/<env>`: mean final return of the lifetimes that reached their end.
    `episode_return/<env>`: mean return of the episodes that ended in the
    window. And a mean for each entry of `_MEANS`. Means over nothing are left
    out.
  """
  by_environment = collections.defaultdict(list)
  for gradient in gradients:
    name = specs[gradient.shard_id].environment
    by_environment[name].append(gradient.metrics)
  row = {}
  for name, shards in by_environment.items():
    columns = collections.defaultdict(list)
    for metrics in shards:
      for field, values in metrics.items():
        columns[field] += values if isinstance(values, list) else [values]
    failed = [a or b for a, b in zip(columns['collapsed'],
                                     columns['not_finite'])]
    row[f'return/{name}'] = _mean([
        value for value, reported, bad in zip(
            columns['final_return'], columns['reported'], failed)
        if reported and not bad])
    episodes = sum(columns['window_episodes'])
    row[f'episode_return/{name}'] = (
        sum(columns['window_return_sum']) / episodes if episodes else None)
    for field, label in _MEANS.items():
      row[f'{label}/{name}'] = _mean(columns[field])
  return {key: value for key, value in row.items() if value is not None}
