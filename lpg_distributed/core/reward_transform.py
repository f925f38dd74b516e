"""Shifts and scales rewards. This is not in the paper; it is off by default.

The fifteen training environments have sparse rewards of about 1. Rules that
were trained on them alone fail where each step is rewarded, as in CartPole.
With this transform a share of the lifetimes adds a constant to the reward of
each step, and each lifetime multiplies its rewards by a factor. Agents and
critics learn from the changed rewards. The returns of the bandit and of the
metrics are computed from the environment's rewards.
"""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib

_STREAM = 1  # makes these draws independent of others from the same keys


class RewardTransform(NamedTuple):
  """Transforms of L lifetimes; agents see (reward + shift) * scale."""
  shift: chex.Array  # [L]
  scale: chex.Array  # [L]


def draw(keys: chex.PRNGKey,
         config: config_lib.MetaConfig) -> Optional[RewardTransform]:
  """Draws the transform of each lifetime; None if the configuration has none.

  Args:
    keys: [L, 2], the keys that the lifetimes are drawn from.
    config: `reward_shift_share`, `reward_shift_range`, `reward_scale_limit`.
  """
  if config.reward_scale_limit == 1. and config.reward_shift_share == 0.:
    return None
  limit = jnp.log(config.reward_scale_limit)
  low, high = config.reward_shift_range

  def one(key):
    share_key, shift_key, scale_key = jax.random.split(
        jax.random.fold_in(key, _STREAM), 3)
    shifted = jax.random.bernoulli(share_key, config.reward_shift_share)
    shift = jax.random.uniform(shift_key, minval=low, maxval=high)
    return RewardTransform(
        jnp.where(shifted, shift, 0.),
        jnp.exp(jax.random.uniform(scale_key, minval=-limit, maxval=limit)))

  return jax.vmap(one)(keys)


def apply(transform: Optional[RewardTransform],
          reward: chex.Array) -> chex.Array:
  """Transforms rewards [T, L, B]; None changes nothing."""
  if transform is None:
    return reward
  return (reward + transform.shift[:, None]) * transform.scale[:, None]
