"""Several updates from one trajectory, for rules with `several_passes`.

In each pass the environments of the trajectory are shuffled and divided into
minibatches. Each minibatch gives one update.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from lpg_distributed.core.update_rules import base
from lpg_distributed.meta_testing import settings as settings_lib

# Folded into a trajectory's key, from which its actions are drawn, too.
_SHUFFLE_FOLD = 0x73687566


class Minibatch(NamedTuple):
  """Some of the environments, with all T steps of each."""
  environments: chex.Array  # [b] int32, their indices in the trajectory
  targets: base.Targets  # leaves [T, b, ...]


def updates_per_trajectory(settings: settings_lib.AgentSettings,
                           rule: base.UpdateRule) -> int:
  """Returns how many updates of an agent one trajectory gives."""
  return settings.passes * settings.minibatches if rule.several_passes else 1


def pass_keys(key: chex.PRNGKey, passes: int) -> chex.Array:
  """Returns a key for each pass over the trajectory that has the given key."""
  return jax.random.split(jax.random.fold_in(key, _SHUFFLE_FOLD), passes)


def divide(rule: base.UpdateRule, num: int, key: chex.PRNGKey,
           targets: base.Targets) -> tuple[Minibatch, ...]:
  """Shuffles the environments and divides them into `num` minibatches.

  The sizes of minibatches differ by at most one.
  """
  order = jax.random.permutation(key, targets.pi_hat.shape[1])
  found = []
  for environments in jnp.array_split(order, num):
    part = jax.tree_util.tree_map(
        lambda x, chosen=environments: x[:, chosen], targets)
    if rule.minibatch_targets is not None:
      part = rule.minibatch_targets(part)
    found.append(Minibatch(environments, part))
  return tuple(found)
