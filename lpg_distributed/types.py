"""The data that flows through a meta-step, with shapes.

Letters: T steps of a trajectory, B parallel environments of one lifetime,
L lifetimes, K updates in a window, A actions, M size of the prediction,
P parameters of the rule. Time comes first. A leaf written for one lifetime
gains an L axis in front where lifetimes are batched (trajectories: behind T).
"""

from typing import Any, Mapping, NamedTuple

import chex

Params = Any  # a tree of float32 arrays


class Trajectory(NamedTuple):
  """T steps of B environments under one policy."""
  observation: chex.Array  # [T+1, B, ...], s_0 .. s_T
  action: chex.Array  # [T, B] int32, a_t
  reward: chex.Array  # [T, B], r_t
  discount_t: chex.Array  # [T, B], d_t: 0 where a transition ended its episode


class AgentOutput(NamedTuple):
  """What an agent says of a state."""
  logits: chex.Array  # [..., A], masked actions at a very negative value
  y_logits: chex.Array  # [..., M], y is their softmax


class RuleInput(NamedTuple):
  """What the rule sees of a trajectory, x_t of Section 3.1."""
  reward: chex.Array  # [T, B]
  discount_t: chex.Array  # [T, B], d_t
  gamma: chex.Array  # [T, B], the lifetime's discount factor
  action_probability: chex.Array  # [T, B], pi(a_t|s_t)
  y: chex.Array  # [T+1, B, M], y(s_t) and, one further, y(s_{t+1})


class LPGTargets(NamedTuple):
  """What the rule asks of an agent."""
  pi_hat: chex.Array  # [T, B], unbounded
  y_hat_logits: chex.Array  # [T, B, M], their softmax is y_hat


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
