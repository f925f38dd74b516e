"""Inputs of a rule from an agent's life: its age, and the size of its rewards.

This is not in the paper; it is off by default.

- `rule.sees_age` adds two inputs, as TA-LPG does (Jackson et al., 2024,
  "Discovering Temporally-Aware Reinforcement Learning Algorithms"): t / T and
  log T. T is the number of updates of the whole lifetime, t that of the updates
  already done, so t / T is 0 at the first update. The logarithm is natural.
- `rule.reward_input` changes r_t as an input of the rule, and nothing else.
  `signed_log` is sign(r) log(1 + |r|). `normalised` divides r by a running root
  mean square. Critics, the meta-objective and returns have the true rewards.

The running mean square m belongs to one agent and starts with its life. After
the n-th trajectory, m is 0.99 m + 0.01 (mean of r^2 over its steps and
environments). Then r_t / (sqrt(m / (1 - 0.99^n)) + 1e-8) is the input at each
step of that same trajectory. The divisor 1 - 0.99^n corrects the bias of m
towards its first value, 0.
"""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed.core.update_rules import base

_DECAY = 0.99
_SMALLEST = 1e-8  # keeps rewards that have all been 0 at 0


class Age(NamedTuple):
  """Ages of lifetimes in updates; of one agent [], of L agents [L]."""
  done: chex.Array  # int32, updates so far
  lifetime: chex.Array  # int32, updates of the whole lifetime


def begin(rule: base.UpdateRule, num_lifetimes: int,
          lifetime: int) -> Optional[Age]:
  """Returns the age 0 of L lifetimes; None if the rule does not see it."""
  if not rule.sees_age:
    return None
  done = jnp.zeros(num_lifetimes, jnp.int32)
  return Age(done, jnp.full_like(done, lifetime))


def later(age: Optional[Age], updates: chex.Numeric) -> Optional[Age]:
  """Returns the age after some more updates."""
  return age and age._replace(done=age.done + updates)


def ages(first: Optional[Age], num: int) -> Optional[Age]:
  """Returns the ages at `num` updates in a row, [num, ...] each."""
  return first and jax.vmap(lambda k: later(first, k))(jnp.arange(num))


class RewardSquare(NamedTuple):
  """Running mean square of an agent's rewards."""
  mean: chex.Array  # [...], biased towards 0 at first
  count: chex.Array  # [...] int32, number of trajectories


def init_rewards(rule: base.UpdateRule) -> Optional[RewardSquare]:
  """Returns the state of a new agent; None if the rule needs none."""
  if rule.reward_input != 'normalised':
    return None
  return RewardSquare(jnp.zeros(()), jnp.zeros((), jnp.int32))


def add_rewards(state: Optional[RewardSquare],
                reward: chex.Array) -> Optional[RewardSquare]:
  """Adds the rewards of a trajectory, [T, ..., B], to a state [...]."""
  if state is None:
    return None
  square = jnp.mean(jnp.square(reward), axis=(0, -1))
  return RewardSquare(_DECAY * state.mean + (1. - _DECAY) * square,
                      state.count + 1)


def see(rule: base.UpdateRule, age: Optional[Age],
        rewards: Optional[RewardSquare]) -> base.Life:
  """Returns what the rule sees of lives [...]."""
  life = base.UNSEEN
  if rule.sees_age and age is not None:
    lifetime = jnp.maximum(age.lifetime, 1)
    life = life._replace(relative_age=jnp.minimum(age.done / lifetime, 1.),
                         log_lifetime=jnp.log(lifetime))
  if rewards is not None:
    corrected = rewards.mean / (1. - _DECAY ** jnp.maximum(rewards.count, 1))
    life = life._replace(reward_rms=jnp.sqrt(corrected))
  return life


def see_each(rule: base.UpdateRule, age: Optional[Age],
             rewards: Optional[RewardSquare]) -> base.Life:
  """Returns what the rule sees of L lives, [L, 1] each; see `see`."""
  return jax.tree_util.tree_map(lambda x: x[:, None],
                                see(rule, age, rewards))


def reward_input(kind: str, reward: chex.Array,
                 reward_rms: Optional[chex.Array] = None) -> chex.Array:
  """Returns the input r_t, [T, ...]; `kind` is `rule.reward_input`."""
  if kind == 'signed_log':
    return jnp.sign(reward) * jnp.log1p(jnp.abs(reward))
  if kind == 'normalised':
    return reward / (reward_rms + _SMALLEST)
  return reward
