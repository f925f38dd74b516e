"""The interface of update rules: how an agent learns from a trajectory.

Meta-training differentiates the functions of a rule; meta-testing only calls
them. Both pass a batch of trajectories with leaves [T, ...]. In shapes, `...`
stands for the batch axes: [L, B] in meta-training, for L agents in B
environments each, and [B] in meta-testing, for one agent.
"""

from typing import Any, Callable, Mapping, NamedTuple, Optional

import chex
import jax.numpy as jnp

from lpg_distributed import types


class UpdateHyperparameters(NamedTuple):
  """Hyperparameters of an agent; each broadcasts against [...]."""
  learning_rate: chex.Array  # alpha_lr
  kl_cost: chex.Array  # alpha_y, the cost of the KL term in Eq. (2)
  gamma: chex.Array  # discount factor
  entropy_cost: chex.Array  # cost of the policy's entropy in A2C
  value_cost: chex.Array  # cost of the error of V(s), if the agent learns V(s)
  td_lambda: chex.Array  # lambda of the targets of V(s)
  # How far PPO lets a policy change; None in meta-training.
  clip_range: Optional[chex.Array] = None


class Outputs(NamedTuple):
  """The outputs that an agent must have for a rule, beside the logits of pi."""
  num_predictions: int = 0  # M, size of y; 0: no y
  # Whether the rule needs V(s). In meta-training the critic computes it.
  value: bool = False
  # Whether the rule uses f(s) of Eq. (7), if the agent has it. Only agents in
  # meta-testing do.
  baseline: bool = False


class Life(NamedTuple):
  """An agent's life at an update; each broadcasts against [...].

  A field is None if the rule does not see it; see `core.agent_life`.
  """
  relative_age: Optional[chex.Array] = None  # t / T, in updates, at most 1
  log_lifetime: Optional[chex.Array] = None  # log T
  reward_rms: Optional[chex.Array] = None  # running root mean square of r


UNSEEN = Life()  # for rules that see nothing of it


class Experience(NamedTuple):
  """A trajectory, and the outputs of the agent or its critic on its states."""
  trajectory: types.Trajectory
  output: types.AgentOutput  # leaves [T+1, ..., .]
  life: Life = UNSEEN


class Targets(NamedTuple):
  """Targets of an agent's outputs; None for those that a rule does not use."""
  pi_hat: chex.Array  # [T, ...], weight of log pi(a|s); A2C's advantage
  y_hat_logits: Optional[chex.Array] = None  # [T, ..., M]
  value: Optional[chex.Array] = None  # [T, ...], target of V(s)
  # [T, ...], log pi(a|s) of the policy that acted
  behaviour_log_pi: Optional[chex.Array] = None


class Predictions(NamedTuple):
  """How a rule interprets the agent's outputs [..., M] as predictions y."""
  represent: Callable[[chex.Array], chex.Array]  # maps outputs to y
  # Maps the agent's outputs and the rule's targets to their distance, [...],
  # the term of Eq. (2) that alpha_y weighs.
  distance: Callable[[chex.Array, chex.Array], chex.Array]
  is_distribution: bool  # whether y has an entropy H(y), Eq. (4)
  # Value of an additional column of outputs that changes neither y nor the
  # distance; see `UpdateRule.widen`.
  padding: float = 0.


# Maps eta and a `RuleInput` to targets, as `lpg_network.apply` does.
Network = Callable[[types.Params, Any], types.LPGTargets]


class UpdateRule(NamedTuple):
  """How an agent learns from a trajectory.

  Each rule has a file of its own, listed in `registry`.
  """
  outputs: Outputs
  # Maps (eta, Experience, UpdateHyperparameters) to Targets, which are
  # constants of the agent's gradient, and to metrics by name, [T, ...]. `eta`
  # is () if `init` is None.
  compute_targets: Callable[[Any, Experience, UpdateHyperparameters],
                            tuple[Targets, Mapping[str, chex.Array]]]
  # Maps (AgentOutput [t, ..., .], action [t, ...], Targets [t, ...],
  # UpdateHyperparameters) to the loss of each step, [t, ...], to descend.
  loss: Callable[[types.AgentOutput, chex.Array, Targets,
                  UpdateHyperparameters], chex.Array]
  # Draws eta; None for a rule without eta.
  init: Optional[Callable[[chex.PRNGKey], types.Params]] = None
  predictions: Optional[Predictions] = None  # None for a rule without y
  # Maps Experience to the input y, [T+1, ..., .]; None for a rule without eta.
  y_input: Optional[Callable[[Experience], chex.Array]] = None
  # Maps (eta, width) to the eta of the same rule for predictions of that width,
  # whose columns above M hold `predictions.padding`. Meta-training widens eta
  # to fill whole vector registers. If this, or its result, is None,
  # meta-training computes with M columns.
  widen: Optional[Callable[[Any, int], Optional[Any]]] = None
  # Fields of `config.RuleConfig` that the rule follows: whether it reads the
  # age in `Experience.life`, and how it reads r_t.
  sees_age: bool = False
  reward_input: str = 'raw'
  # Whether agents in meta-testing learn from a trajectory in `passes` passes of
  # `minibatches` updates, as their settings say. If not, and in meta-training,
  # a trajectory gives one update.
  several_passes: bool = False
  # Maps the Targets of a minibatch, [T, b, ...], to those of its update; None:
  # they are the same. Only for rules with `several_passes`.
  minibatch_targets: Optional[Callable[[Targets], Targets]] = None


def value_targets(experience: Experience, hyper: UpdateHyperparameters
                  ) -> chex.Array:
  """TD(lambda) targets of V(s), [T, ...]."""
  # Imported here, since it imports RLax, which LPG itself does not need.
  from lpg_distributed.core import critic
  return critic.lambda_returns(
      experience.trajectory, experience.output.value, hyper.gamma,
      hyper.td_lambda)


def value_loss(output: types.AgentOutput, targets: Targets,
               hyper: UpdateHyperparameters) -> chex.Array:
  """Weighted loss 0.5 * (V(s) - target)^2, [T, ...]; 0 if a critic learns V."""
  if output.value is None:
    return jnp.zeros(())
  return hyper.value_cost * 0.5 * jnp.square(output.value - targets.value)
