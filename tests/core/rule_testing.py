"""An experience of two steps, for targets that are computed by hand."""

import numpy as np

from lpg_distributed import types
from lpg_distributed.core.update_rules import base


def two_steps() -> tuple[base.Experience, base.UpdateHyperparameters]:
  """Rewards 1 and 2, values 3, 5 and 7; the second step ends the episode.

  All hyperparameters are 0.5.
  """
  trajectory = types.Trajectory(
      observation=np.zeros((3, 1, 1)), action=np.zeros((2, 1), np.int32),
      reward=np.array([[1.], [2.]]), discount_t=np.array([[1.], [0.]]))
  output = types.AgentOutput(logits=np.zeros((3, 1, 2)),
                             value=np.array([[3.], [5.], [7.]]))
  hyper = base.UpdateHyperparameters(
      *[np.array(0.5)] * len(base.UpdateHyperparameters._fields))
  return base.Experience(trajectory, output), hyper
