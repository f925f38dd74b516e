"""Counts and returns of one agent on a game, as rows of the metrics."""

import collections
import math
import time
from typing import Any, Mapping, Optional

import numpy as np

from lpg_distributed.envs import atari
from lpg_distributed.meta_testing import host_loop

# Episodes in the mean of a row's return, the latest ones.
_RETURN_WINDOW = 100


class Record:
  """Collects counts, returns and metrics of one agent."""

  def __init__(self, game: str, preset: str, seed: int, frames_per_step: int,
               saved: Optional[Mapping[str, Any]] = None):
    """Begins; `saved`, from `save`, goes on where it was."""
    saved = saved or {}
    self._names = {'game': game, 'preset': preset, 'seed': seed}
    self._frames_per_step = frames_per_step
    self._returns = collections.deque(saved.get('returns', ()), _RETURN_WINDOW)
    self._episodes = saved.get('episodes', 0)
    self.env_steps = saved.get('env_steps', 0)
    self._updates = saved.get('updates', 0)
    self._metrics: Mapping[str, float] = {}
    self._row_time = time.monotonic()
    self._start = self._row_time - saved.get('seconds', 0.)
    self._row_frames = self.frames
    self._scores = atari.scores().get(game)

  def add(self, progress: host_loop.TrainingProgress) -> None:
    """Counts an item with an update. Items without one are skipped, because
    they run ahead of the agent."""
    if progress.metrics is None:
      return
    self.env_steps = progress.env_steps
    self._returns.extend(progress.episode_returns)
    self._episodes += len(progress.episode_returns)
    self._updates += 1
    self._metrics = progress.metrics

  def save(self) -> dict[str, Any]:
    """Returns the state for `__init__`, as plain JSON."""
    return {'returns': list(self._returns), 'episodes': self._episodes,
            'env_steps': self.env_steps, 'updates': self._updates,
            'seconds': time.monotonic() - self._start}

  @property
  def frames(self) -> int:
    return self.env_steps * self._frames_per_step

  @property
  def diverged(self) -> bool:
    """Whether a metric of the agent is not finite."""
    return not all(math.isfinite(x) for x in self._metrics.values())

  def seconds_since_row(self) -> float:
    return time.monotonic() - self._row_time

  def _mean_return(self) -> Optional[float]:
    return float(np.mean(self._returns)) if self._returns else None

  def status(self) -> dict[str, Any]:
    seconds = max(time.monotonic() - self._start, 1e-6)
    return {'frames': self.frames, 'return': self._mean_return(),
            'frames_per_s': self.frames / seconds}

  def row(self, event: str) -> dict[str, Any]:
    """Of a progress row the speed is that since the last row, else that of
    the whole life; return is None until an episode has ended."""
    now = time.monotonic()
    frames, since = self.frames - self._row_frames, self._row_time
    if event != 'progress':
      frames, since = self.frames, self._start
    self._row_time, self._row_frames = now, self.frames
    mean_return = self._mean_return()
    row = {'event': event, **self._names,
           'frames': self.frames, 'updates': self._updates,
           'seconds': now - self._start,
           'frames_per_s': frames / max(now - since, 1e-6),
           'return': mean_return, 'episodes': self._episodes}
    if self._scores is not None:
      random, human = self._scores
      row.update(random_score=random, human_score=human,
                 human_normalised=None if mean_return is None else
                 atari.human_normalised(self._names['game'], mean_return))
    return {**row, **self._metrics}
