"""Sums the meta-gradients of shards to that of a meta-step."""

from typing import Mapping, Sequence

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types


def weighted(gradients: Sequence[types.MetaGradient],
             specs: Mapping[int, config_lib.ShardSpec],
             config: config_lib.Config) -> tuple[np.ndarray, float]:
  """Returns the weighted sum of gradients, [P], and its number of lifetimes.

  Their quotient estimates the gradient of Eq. (1): the mean over environments,
  by `shares`.

  Args:
    gradients: at least one; in synchronous mode one of each shard. Floats are
      added in this order.
    specs: shards by number.
    config: configuration of the run.
  """
  total = np.zeros_like(gradients[0].gradient_sum, np.float32)
  with np.errstate(over='ignore'):  # The learner checks the norm.
    for gradient in gradients:
      weight = np.float32(specs[gradient.shard_id].weight)
      total += weight * gradient.gradient_sum
  if config.lifetimes_by == 'share':
    return total, sum(g.num_lifetimes for g in gradients)
  # Shards have different numbers of lifetimes, but send equally many gradients.
  # An asynchronous update of some shards stands for their share of all shards.
  return total, config.meta.num_lifetimes * len(gradients) / len(specs)
