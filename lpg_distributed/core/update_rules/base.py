"""What an update rule is: how an agent learns from a trajectory.

Meta-training differentiates the functions of a rule, meta-testing calls them.
Both give them a batch of trajectories: leaves [T, ...], where ... is [B] for
one agent in B environments, or [L, B] for L agents.
"""

from typing import Any, Callable, Mapping, NamedTuple, Optional

import chex
import jax.numpy as jnp

from lpg_distributed import types


class Hyper(NamedTuple):
  """Hyperparameters of an agent; each broadcasts against [...]."""
  alpha_lr: chex.Array  # learning rate
  alpha_y: chex.Array  # cost of the KL term in Eq. (2)
  gamma: chex.Array  # discount factor
  entropy_cost: chex.Array  # of A2C's policy
  value_cost: chex.Array  # of V(s), where the agent learns it
  td_lambda: chex.Array  # of the targets of V(s)


class Outputs(NamedTuple):
  """What a rule wants an agent to say beside its policy's logits."""
  num_predictions: int = 0  # M, of y; 0: none
  # Whether V(s); in meta-training it is that of the lifetime's critic.
  value: bool = False
  baseline: bool = False  # whether f(s) of Eq. (7); in meta-testing only


class Experience(NamedTuple):
  """A trajectory, and what the agent, or its critic, said of its states."""
  trajectory: types.Trajectory
  output: types.AgentOutput  # leaves [T+1, ..., .]


class Targets(NamedTuple):
  """What a rule asks of an agent; None where its agents have no such output."""
  pi_hat: chex.Array  # [T, ...], weight of log pi(a|s); A2C's advantage
  y_hat_logits: Optional[chex.Array] = None  # [T, ..., M]
  value: Optional[chex.Array] = None  # [T, ...], what V(s) shall become


class Predictions(NamedTuple):
  """How a rule takes the agent's outputs [..., M] as predictions y."""
  represent: Callable[[chex.Array], chex.Array]  # outputs to y
  # (the agent's outputs, the rule's) to [...], what alpha_y weighs in Eq. (2).
  distance: Callable[[chex.Array, chex.Array], chex.Array]
  is_distribution: bool  # so that there is an entropy H(y), Eq. (4)


# (eta, RuleInput) to targets: `lpg_network.apply`, or a form of it.
Network = Callable[[types.Params, Any], types.LPGTargets]


class UpdateRule(NamedTuple):
  """How an agent learns from a trajectory. One file each; see `registry`."""
  outputs: Outputs
  # (eta, Experience, Hyper) to Targets, which are constants of the agent's
  # gradient, and metrics by name, [T, ...]. `eta` is () without `init`.
  compute_targets: Callable[[Any, Experience, Hyper],
                            tuple[Targets, Mapping[str, chex.Array]]]
  # (AgentOutput [t, ..., .], action [t, ...], Targets [t, ...], Hyper) to the
  # loss of each step, [t, ...], to descend.
  loss: Callable[[types.AgentOutput, chex.Array, Targets, Hyper], chex.Array]
  # Draws eta; None: the rule has none.
  init: Optional[Callable[[chex.PRNGKey], types.Params]] = None
  predictions: Optional[Predictions] = None  # None: it has no y
  # Experience to y of the rule's inputs, [T+1, ..., .]; None without eta.
  y_input: Optional[Callable[[Experience], chex.Array]] = None


def value_targets(experience: Experience, hyper: Hyper) -> chex.Array:
  """TD(lambda) targets of V(s), [T, ...]."""
  # Here, since it brings RLax, which LPG itself does not need.
  from lpg_distributed.core import critic
  return critic.lambda_returns(
      experience.trajectory, experience.output.value, hyper.gamma,
      hyper.td_lambda)


def value_loss(output: types.AgentOutput, targets: Targets,
               hyper: Hyper) -> chex.Array:
  """Half the squared error of V(s), weighted; 0 if a critic has V(s)."""
  if output.value is None:
    return jnp.zeros(())
  return hyper.value_cost * 0.5 * jnp.square(output.value - targets.value)
