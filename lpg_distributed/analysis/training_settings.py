"""Settings and labels of comparisons on the training environments."""

import dataclasses

A2C = 'A2C'
UNTRAINED = 'untrained'  # label of a drawn, untrained rule
NO_Y, HELD_PHI = 'alpha_y = 0', 'phi held'
HELD_POLICY = 'policy held'


@dataclasses.dataclass(frozen=True)
class ComparisonSettings:
  """Numbers of a comparison; 0: as in the training of the first rule."""
  num_lifetimes: int = 64  # seeds
  # Lifetimes that run at once; limits memory, and changes random numbers.
  chunk: int = 16
  tuning_lifetimes: int = 4  # per pair of the grid, in the first round
  final_lifetimes: int = 32  # per pair in the second round, see `tuning.tune`
  updates: int = 0  # per lifetime
  num_envs: int = 0
  points: int = 40  # number of points of a curve
  seed: int = 0
  a2c: bool = True
  # Whether rules are tuned like A2C, over Table 3's learning rates and larger
  # ones. Of use for lifetimes of another length than in their training.
  tune: bool = False
  ablations: bool = True
