"""The data that flows through a meta-step, with shapes.

Letters: T steps of a trajectory, B parallel environments of one lifetime,
L lifetimes, K updates in a window, A actions, M size of the prediction,
P parameters of the rule. Time comes first. A leaf written for one lifetime
gains an L axis in front where lifetimes are batched (trajectories: behind T).
"""

from typing import Any, Mapping, NamedTuple, Optional

import chex

Params = Any  # a tree of float32 arrays


class Trajectory(NamedTuple):
  """T steps of B environments under one policy."""
  observation: chex.Array  # [T+1, B, ...], s_0 .. s_T
  action: chex.Array  # [T, B] int32, a_t
  reward: chex.Array  # [T, B], r_t
  discount_t: chex.Array  # [T, B], d_t: 0 where a transition ended its episode


class AgentOutput(NamedTuple):
  """What an agent says of a state; None where its rule wants no such output."""
  logits: chex.Array  # [..., A], masked actions at a very negative value
  y_logits: Optional[chex.Array] = None  # [..., M], y is their softmax
  value: Optional[chex.Array] = None  # [...], V(s), an estimate of the return
  baseline: Optional[chex.Array] = None  # [...], f(s) of Eq. (7)


class LPGTargets(NamedTuple):
  """What the rule's network answers."""
  pi_hat: chex.Array  # [T, B], unbounded
  # [T, B, M], their softmax is y_hat; None for a rule without y_hat.
  y_hat_logits: Optional[chex.Array]


class HyperParams(NamedTuple):
  """One lifetime's draws: two of the bandit's, two of Table 2."""
  arm: chex.Array  # [] int32, row of the bandit's grid
  alpha_lr: chex.Array  # [], agent's learning rate
  alpha_y: chex.Array  # [], cost of the KL term in Eq. (2)
  gamma: chex.Array  # [], discount factor
  beta_0: chex.Array  # [], policy entropy cost in Eq. (4)


class MetaGradient(NamedTuple):
  """One shard's contribution to one meta-step."""
  meta_step: int
  shard_id: int
  gradient_sum: chex.Array  # [P], sum over the shard's lifetimes, to descend
  num_lifetimes: int
  metrics: Mapping[str, Any]  # sums and counts; see core/lifetime.py
  epoch: int = 0  # of the learner; see nodes/meta_learner.py
  writer: int = 0  # a worker's process; each has its own number
  sequence: int = 0  # which of the writer's messages


class FinalReturn(NamedTuple):
  """How a lifetime ended, for the bandit."""
  meta_step: int
  shard_id: int
  slot: int  # which of the shard's lifetimes
  environment: str
  arm: int
  value: float  # mean over parallel environments, last complete episode
