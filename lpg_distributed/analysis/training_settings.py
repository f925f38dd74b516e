"""Settings and labels of comparisons on the training environments."""

import dataclasses

A2C = 'A2C'
UNTRAINED = 'untrained'  # label of a drawn, untrained rule
NO_Y, HELD_PHI = 'alpha_y = 0', 'phi held'
HELD_POLICY, HELD_AGE = 'policy held', 'age held'


@dataclasses.dataclass(frozen=True)
class ComparisonSettings:
  """Settings of a comparison.

  Where 0 is the default, 0 means the value in the training of the first rule.
  """
  num_lifetimes: int = 64  # seeds
  # Lifetimes that run at once; limits memory, and changes random numbers.
  chunk: int = 16
  # Trials of the search for hyperparameters, see `tuning.tune`; 1: no search,
  # each rule and A2C have their defaults.
  trials: int = 32
  finalists: int = 8  # trials in the final round
  tuning_lifetimes: int = 8  # per trial
  final_lifetimes: int = 32  # per trial in the final round
  updates: int = 0  # per lifetime
  num_envs: int = 0
  points: int = 40  # number of points of a curve
  seed: int = 0
  a2c: bool = True
  ablations: bool = True
