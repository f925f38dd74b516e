"""A running job's files, clock and status."""

import math
import os
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Optional

import jax
import numpy as np

from lpg_distributed.core import policy as policy_lib
from lpg_distributed.meta_testing import agent_checkpoint as checkpoint_lib
from lpg_distributed.meta_testing import call_watchdog
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import results
from lpg_distributed.store import policy_file

ROWS = 50  # smallest number of rows per agent
CHECKPOINT_PERIOD_S = 30.


class Status(NamedTuple):
  """The status of a running job."""
  seed: Optional[int]  # the agent in training; None: all at once
  env_steps: int  # steps so far, of each agent in training
  env_steps_per_s: float  # over all agents, since the start of this launch
  seconds_left: Optional[float]  # until the whole job is done
  last_return: Optional[float]  # mean over agents of their last rows' returns


Watch = Callable[[Status], None]


def save_agent(job: jobs.Job, directory: str, seed: int, environment: Any,
               theta: Any) -> None:
  """Saves a trained agent as a policy.

  Args:
    job: the agent's job.
    directory: directory of the job's files.
    seed: seed of the agent.
    environment: an environment or a batch; only its specs are read.
    theta: the agent's parameters.
  """
  num_actions = int(environment.action_spec().num_values)
  form = policy_lib.Form(
      job.environment, environment.observation_spec(), num_actions,
      learner_lib.num_outputs(num_actions, loading.make_rule(job).outputs))
  policy_file.save_in(directory, seed, policy_lib.Policy(
      form, theta, info={'rule': job.rule, 'seed': seed}))


def finite(metrics: Mapping[str, Any]) -> bool:
  """Returns whether all metrics are finite."""
  return all(math.isfinite(float(x)) for x in metrics.values())


class TrainingRun:
  """The state that both loops share: files, clock, status."""

  def __init__(self, job: jobs.Job, directory: str, stop: threading.Event,
               watch: Watch, frames_per_step: int,
               watchdog: call_watchdog.CallWatchdog):
    self.job, self.directory = job, directory
    self.stop, self._watch, self.watchdog = stop, watch, watchdog
    self._frames_per_step = frames_per_step
    self._header = results.make_header(job, frames_per_step)
    self._header['versions']['device'] = jax.local_devices()[0].device_kind
    path = os.path.join(directory, results.FILE)
    if os.path.exists(path):
      results.check_same(path, results.read(path).header, self._header)
    self.checkpoint = checkpoint_lib.load(directory)
    self._writer = None
    self._start = self._last_save = time.monotonic()
    self._done_before = None

  def open(self, done: Mapping[int, float]) -> None:
    """Opens the result file; `done` maps seeds to steps in the checkpoint."""
    self._writer = results.Writer(self.directory, self._header, done)
    self._returns = {}
    for row in self._writer.rows:
      if row['return'] is not None:
        self._returns[row['seed']] = row['return']

  def write(self, seed: int, env_steps: int, updates: int, return_sum: float,
            episodes: int, metrics: Mapping[str, float]) -> None:
    """Writes a row; see `results` for its fields.

    Args:
      seed: seed of the agent.
      env_steps: steps of the agent so far.
      updates: updates of the agent so far.
      return_sum: sum of the returns of the episodes since its last row.
      episodes: number of those episodes.
      metrics: means of the update's metrics since its last row.
    """
    mean = return_sum / episodes if episodes else None
    if mean is not None:
      self._returns[seed] = mean
    row = {'seed': seed, 'env_steps': env_steps,
           'frames': env_steps * self._frames_per_step, 'updates': updates,
           'seconds': round(time.monotonic() - self._start, 3),
           'return': mean, 'episodes': int(episodes),
           **{name: float(x) for name, x in metrics.items()}}
    if not finite(metrics):
      row['diverged'] = True
    self._writer.write(row)

  def show(self, seed: Optional[int], env_steps: int, total: int) -> None:
    """Reports the status; `total` counts steps of all agents and launches."""
    if self._done_before is None:  # The first call comes before any step.
      self._done_before, self._start = total, time.monotonic()
    seconds = time.monotonic() - self._start
    speed = (total - self._done_before) / max(seconds, 1e-6)
    left = self.job.env_steps * len(self.job.seeds) - total
    returns = ([self._returns[seed]] if seed in self._returns
               else list(self._returns.values()) if seed is None else [])
    self._watch(Status(seed, env_steps, speed,
                       max(left, 0) / speed if speed > 0 else None,
                       float(np.mean(returns)) if returns else None))

  def save(self, header: Mapping[str, Any], tree: Any,
           now: bool = False) -> None:
    """Writes a checkpoint, at most one per period unless `now`."""
    if now or time.monotonic() - self._last_save > CHECKPOINT_PERIOD_S:
      self._writer.sync()  # Rows must be on the disk before the checkpoint.
      checkpoint_lib.save(self.directory, header, tree)
      self._last_save = time.monotonic()

  def close(self) -> None:
    """Closes the result file."""
    if self._writer is not None:
      self._writer.close()
