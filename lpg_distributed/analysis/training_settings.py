"""How agents are compared on training environments; names and numbers."""

import dataclasses

A2C = 'A2C'
UNTRAINED = 'untrained'  # the label of a rule that was drawn
NO_Y, HELD_PHI = 'alpha_y = 0', 'phi held'
HELD_POLICY = 'policy held'


@dataclasses.dataclass(frozen=True)
class Settings:
  """How long and how often agents live; 0: as in the first rule's training."""
  num_lifetimes: int = 64  # seeds
  # At a time, on other random numbers; memory.
  chunk: int = 16
  tuning_lifetimes: int = 4  # for each pair of a grid that is tuned
  final_lifetimes: int = 32  # for each of the best of those, see `tune`
  updates: int = 0  # of every lifetime
  num_envs: int = 0
  points: int = 40  # of a curve
  seed: int = 0
  a2c: bool = True
  # Rules are tuned as A2C is, all over Table 3's learning rates and larger
  # ones: for lifetimes of another length than those their bandits know.
  tune: bool = False
  ablations: bool = True
