"""From shards' measurements to a row of the metrics and the bandit's reports.

A shard's metrics travel as plain lists, one number per lifetime, named as the
fields of `core.lifetime.ShardMetrics`.
"""

import collections
import math
from typing import Any, Mapping, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed import types

# Means over the lifetimes that are finite; field of ShardMetrics -> name.
_MEANS = {
    'policy_entropy': 'entropy',
    'y_entropy': 'y_entropy',
    'kl': 'kl',
    'pi_hat_square': 'pi_hat_square',
    'y_hat_square': 'y_hat_square',
    'loss': 'loss',
}

# Counters that a row repeats.
_COUNTERS = ('env_steps', 'resets', 'elapsed_s', 'stale', 'duplicates',
             'superseded')


def encode(metrics: Any) -> dict[str, Any]:
  """A `ShardMetrics` of arrays as plain lists and numbers."""
  return {name: getattr(metrics, name).tolist() for name in metrics._fields}


def final_returns(gradient: types.MetaGradient,
                  spec: config_lib.ShardSpec) -> list[types.FinalReturn]:
  """What a shard's window tells the bandit, in the order of slots."""
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
  """Lifetimes that were ended for a reason other than their age."""
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
  """What a row says beside its environments: counts, and ages of gradients."""
  ages = [meta_step - g.meta_step for g in gradients]
  return {**{f'resets/{name}': count for name, count in resets.items()},
          **{name: counters[name] for name in _COUNTERS},
          'staleness': sum(ages) / len(ages)}


def summarise(gradients: Sequence[types.MetaGradient],
              specs: Mapping[int, config_lib.ShardSpec]) -> dict[str, float]:
  """One meta-step's curves, by environment.

  Args:
    gradients: of one meta-update.
    specs: by shard id.

  Returns:
    `return/<env>`, the mean final return of lifetimes that were lived to
    their end; `episode_return/<env>`, of all episodes completed within the
    window; and the means named above. What no number exists for is missing.
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
