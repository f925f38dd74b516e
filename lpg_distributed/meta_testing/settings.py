"""How an agent of meta-testing learns: what files and flags set."""

import dataclasses

import jax.numpy as jnp

from lpg_distributed.core.update_rules import base


@dataclasses.dataclass(frozen=True)
class Settings:
  """Numbers of an agent; the defaults are those of Table 4."""
  optimiser: str = 'adam'
  learning_rate: float = 5e-4  # alpha_lr
  kl_cost: float = 0.5  # alpha_y
  discount: float = 0.995  # gamma
  trajectory_steps: int = 20  # T
  use_baseline: bool = True  # Eq. (7) or Eq. (2); not in a2c
  # Rewards are multiplied with this before the rule sees them: learned rules
  # represent a limited range of values (paper silent).
  reward_scale: float = 1.
  # And then clipped to [-x, x], as is the custom on Atari (paper silent); 0:
  # not at all.
  max_abs_reward: float = 1.
  # Of V(s), which a2c and lpg_v learn (paper silent).
  td_lambda: float = 0.95
  value_cost: float = 0.5  # weight of half the squared error
  entropy_cost: float = 0.01  # of a2c; Mnih et al. (2016)

  def hyper(self) -> base.Hyper:
    """What an agent learns with, as arrays []."""
    return base.Hyper(
        alpha_lr=jnp.float32(self.learning_rate),
        alpha_y=jnp.float32(self.kl_cost),
        gamma=jnp.float32(self.discount),
        entropy_cost=jnp.float32(self.entropy_cost),
        value_cost=jnp.float32(self.value_cost),
        td_lambda=jnp.float32(self.td_lambda))
