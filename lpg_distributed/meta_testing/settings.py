"""Settings of an agent in meta-testing, from files and flags."""

import dataclasses

import jax.numpy as jnp

from lpg_distributed import fields
from lpg_distributed.core.update_rules import base


@dataclasses.dataclass(frozen=True)
class AgentSettings:
  """Settings of an agent; the defaults are those of Table 4."""
  optimiser: str = 'adam'
  learning_rate: float = 5e-4  # alpha_lr
  kl_cost: float = 0.5  # alpha_y
  gamma: float = 0.995  # the discount factor
  trajectory_steps: int = 20  # T
  use_baseline: bool = True  # Eq. (7) or Eq. (2); not in a2c and ppo
  # Rewards are multiplied by this before the rule sees them, since learned
  # rules represent a limited range of values. Not in the paper.
  reward_scale: float = 1.
  # Rewards are then clipped to [-x, x], as is usual on Atari; 0: not clipped.
  # Not in the paper.
  max_abs_reward: float = 1.
  # For V(s), which agents learn under a2c, ppo and lpg_v. Not in the paper.
  td_lambda: float = 0.95  # lambda of its TD(lambda) targets
  value_cost: float = 0.5  # weight of half the squared error
  entropy_cost: float = 0.01  # for a2c and ppo; Mnih et al. (2016)
  # For ppo, which learns from each trajectory several times.
  clip_range: float = 0.2  # Schulman et al. (2017)
  passes: int = 4  # over a trajectory
  minibatches: int = 4  # of environments, in each pass; an update for each

  def lifetime(self, num_envs: int, env_steps: int) -> int:
    """Returns the number of updates in an agent's steps, as a 32-bit number."""
    updates = -(-env_steps // (self.trajectory_steps * num_envs))
    return min(updates, fields.LARGEST)

  def hyper(self) -> base.UpdateHyperparameters:
    """Returns the hyperparameters that a rule reads, as arrays []."""
    return base.UpdateHyperparameters(
        learning_rate=jnp.float32(self.learning_rate),
        kl_cost=jnp.float32(self.kl_cost),
        gamma=jnp.float32(self.gamma),
        entropy_cost=jnp.float32(self.entropy_cost),
        value_cost=jnp.float32(self.value_cost),
        td_lambda=jnp.float32(self.td_lambda),
        clip_range=jnp.float32(self.clip_range))
