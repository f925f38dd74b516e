"""Logs of the meta-learner: one row per meta-step, and p(alpha|E)."""

from typing import Any, Mapping

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core import bandit
from lpg_distributed.store import loggers
from lpg_distributed.store import saved_bandit

_MOST_PREFERENCES = 200  # rows of one run in metrics/bandit.jsonl


def preferences(config: config_lib.Config,
                bandit_state: Mapping[str, Any]) -> dict[str, list[float]]:
  """p(alpha|E) over the arms of each environment, Eq. (6).

  Args:
    config: configuration of the run.
    bandit_state: result of `BanditServer.get_state`.
  """
  return {
      name: np.exp(bandit.log_probabilities(
          state, config.bandit)).round(4).tolist()
      for name, state in saved_bandit.unpack(bandit_state).items()}


class RunMetrics:
  """Writes `metrics/learner.jsonl` and `metrics/bandit.jsonl`."""

  def __init__(self, config: config_lib.Config, run_dir: str,
               resume_step: int):
    """Rows of `resume_step` and later are dropped: they are written again."""
    self._config = config
    self._period = -(-config.run.meta_steps // _MOST_PREFERENCES)
    self._learner = loggers.MetricsLogger(
        run_dir, 'learner', resume_step=resume_step)
    self._bandit = loggers.MetricsLogger(
        run_dir, 'bandit', resume_step=resume_step, tensorboard=False)

  def write(self, meta_step: int, row: Mapping[str, Any],
            bandit_state: Mapping[str, Any]) -> None:
    """Logs one meta-step; preferences are logged at most 200 times a run."""
    self._learner.write(meta_step, row)
    if meta_step % self._period == 0:
      self._bandit.write(meta_step, preferences(self._config, bandit_state))

  def close(self) -> None:
    self._learner.close()
    self._bandit.close()
