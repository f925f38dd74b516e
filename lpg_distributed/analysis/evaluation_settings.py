"""Settings of policy evaluation; see `policy_evaluation`."""

import dataclasses

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import stored

GAMMA = 0.995  # Section 4.3


@dataclasses.dataclass(frozen=True)
class PredictionSettings:
  """How predictions are learned, with the numbers of Table 3 for tables."""
  updates: int = 400
  records: int = 20  # number of equally spaced records of predictions
  num_envs: int = 64
  trajectory_steps: int = 20
  learning_rate: float = 40.
  kl_cost: float = 0.5
  gamma: float = GAMMA


def checked(settings: PredictionSettings) -> PredictionSettings:
  """Returns the settings; raises ResultsError if a number is not allowed."""
  experiment.check_counts(updates=settings.updates, records=settings.records,
                          num_envs=settings.num_envs)
  if settings.updates % settings.records:
    raise stored.ResultsError(
        f'--records is {settings.records}; allowed: divisors of --updates, '
        f'{settings.updates}')
  return settings
