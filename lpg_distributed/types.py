"""The data of a meta-step, with shapes.

Symbols in shapes:

- T: steps of a trajectory
- B: parallel environments of one lifetime
- L: lifetimes
- K: updates in a window
- A: actions
- M: size of the prediction y
- P: parameters of the rule

The axis of time comes first. Shapes are given for one lifetime. Where lifetimes
are batched, leaves have an additional first axis L; those of a trajectory have
it second, after T.
"""

from typing import Any, Mapping, NamedTuple, Optional

import chex

Params = Any  # a tree of float32 arrays


class Trajectory(NamedTuple):
  """T steps of B environments under a fixed policy."""
  observation: chex.Array  # [T+1, B, ...], s_0 .. s_T
  action: chex.Array  # [T, B] int32, a_t
  reward: chex.Array  # [T, B], r_t
  discount_t: chex.Array  # [T, B], d_t: 0 where a transition ended its episode


class AgentOutput(NamedTuple):
  """Outputs of an agent; None for those that its rule does not use."""
  logits: chex.Array  # [..., A]; masked actions have a very negative logit
  y_logits: Optional[chex.Array] = None  # [..., M]; y is their softmax
  value: Optional[chex.Array] = None  # [...], V(s), an estimate of the return
  baseline: Optional[chex.Array] = None  # [...], f(s) of Eq. (7)


class LPGTargets(NamedTuple):
  """Outputs of the rule's network."""
  pi_hat: chex.Array  # [T, B], unbounded
  # [T, B, M]; their softmax is y_hat. None for a rule without y_hat.
  y_hat_logits: Optional[chex.Array]


class LifetimeHyperparameters(NamedTuple):
  """Hyperparameters of a lifetime.

  The bandit draws the learning rate alpha_lr and the KL cost alpha_y; gamma and
  beta_0 are drawn uniformly from the values in Table 2. Those of the critic are
  None in meta-training, which takes them from `config.outer`; a search varies
  them.
  """
  arm: chex.Array  # [] int32, row of the bandit's grid of arms
  learning_rate: chex.Array  # [], alpha_lr of the agent
  kl_cost: chex.Array  # [], alpha_y, the cost of the KL term in Eq. (2)
  gamma: chex.Array  # [], discount factor
  beta_0: chex.Array  # [], policy entropy cost in Eq. (4)
  td_lambda: Optional[chex.Array] = None  # [], lambda of the targets of V(s)
  critic_rate: Optional[chex.Array] = None  # [], learning rate of the critic


class MetaGradient(NamedTuple):
  """The meta-gradient of one shard in one meta-step."""
  meta_step: int
  shard_id: int
  gradient_sum: chex.Array  # [P], sum over the shard's lifetimes, to descend
  num_lifetimes: int
  metrics: Mapping[str, Any]  # sums and counts; see core/lifetime.py
  epoch: int = 0  # epoch of the learner; see nodes/meta_learner.py
  writer: int = 0  # unique number of the worker's process
  sequence: int = 0  # number of this message among those of its writer


class FinalReturn(NamedTuple):
  """The final return of a lifetime, for the bandit."""
  meta_step: int
  shard_id: int
  slot: int  # index of the lifetime in its shard
  environment: str
  arm: int
  value: float  # mean over parallel environments, last complete episode
