"""Assigns shards to workers; this affects speed but not results."""

from typing import Optional

from lpg_distributed import config as config_lib


def learner_worker(config: config_lib.Config) -> Optional[int]:
  """Number of the worker in the learner's process, the last; else None."""
  return config.run.num_workers if config.run.learner_speed else None


def assign(config: config_lib.Config) -> list[list[config_lib.ShardSpec]]:
  """Gives each worker its shards.

  The most expensive shard comes first. Each goes to the worker that would
  finish it first.

  Returns:
    One list per worker, sorted by shard. The last is that of the worker in the
    learner's process, if there is one. With more workers than shards some
    lists are empty.
  """
  def cost(spec):
    return spec.num_lifetimes * config.relative_cost(spec.environment)

  speeds = [1.] * config.run.num_workers
  if learner_worker(config) is not None:
    speeds.append(config.run.learner_speed)
  load = [0.] * len(speeds)
  owned = [[] for _ in load]
  for spec in sorted(config.shards(), key=lambda s: (-cost(s), s.shard_id)):
    worker = min(range(len(load)), key=lambda w: (
        (load[w] + cost(spec)) / speeds[w], w))
    load[worker] += cost(spec)
    owned[worker].append(spec)
  return [sorted(specs, key=lambda s: s.shard_id) for specs in owned]
