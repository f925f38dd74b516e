"""Runs a job whose environment is stepped on the host; see `session`."""

from typing import Any, Optional

import jax
import numpy as np

from lpg_distributed.envs import host
from lpg_distributed.meta_testing import agent_checkpoint as checkpoint_lib
from lpg_distributed.meta_testing import call_watchdog
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import minibatches
from lpg_distributed.meta_testing import run_record


def run_host(run: run_record.TrainingRun, batches: list[Any]) -> bool:
  """Trains all agents of a job; returns False if it was stopped.

  Raises:
    JobError: the environment failed; a checkpoint of the last update is saved.
  """
  job = run.job
  spec = batches[0].observation_spec()
  learner = learner_lib.make_learner(
      loading.make_network(spec), int(batches[0].action_spec().num_values),
      job.settings, loading.make_rule(job))
  index, snapshot, updates = 0, None, 0
  if run.checkpoint is not None:
    index, env_steps, updates = checkpoint_lib.counts(
        run.checkpoint, 'index', 'env_steps', 'updates')
    if env_steps and index < len(job.seeds):
      like = jax.eval_shape(learner.init, jax.random.PRNGKey(0))
      snapshot = host_loop.Snapshot(jax.device_put(checkpoint_lib.restore(
        run.checkpoint, like)), env_steps)
    else:  # The next agent is to begin; `updates` are those of the last one.
      updates = 0
  done = dict.fromkeys(job.seeds[:index], np.inf)
  if snapshot is not None:
    done[job.seeds[index]] = snapshot.env_steps
  run.open(done)
  for i in range(index, len(job.seeds)):
    if not _train_on_host(run, batches, learner, i, snapshot, updates):
      return False
    snapshot, updates = None, 0
  return True


class _AgentRecord:
  """The rows of one agent, and the snapshot that a resume starts from."""

  def __init__(self, run: run_record.TrainingRun, index: int,
               snapshot: Optional[host_loop.Snapshot], updates: int):
    self._run, self._index = run, index
    # Snapshot at the last row; a resume repeats later updates.
    self.kept = self._latest = snapshot
    self._kept_updates = self._updates = updates
    self._per_trajectory = minibatches.updates_per_trajectory(
        run.job.settings, loading.make_rule(run.job))
    self._period = max(1, run.job.env_steps // run_record.ROWS)
    self._begin_row(snapshot.env_steps if snapshot else 0)

  def _begin_row(self, env_steps: int) -> None:
    self._next_row = self._period * (env_steps // self._period + 1)
    self._return_sum, self._episodes, self._sums = 0., 0, {}
    self.count = 0  # trajectories since the last row

  def add(self, progress: host_loop.TrainingProgress) -> None:
    """Counts a trajectory and its updates."""
    self._latest = host_loop.Snapshot(progress.state, progress.env_steps)
    self._updates += self._per_trajectory
    self.count += 1
    self._episodes += len(progress.episode_returns)
    self._return_sum += sum(progress.episode_returns)
    for name, x in progress.metrics.items():
      self._sums[name] = self._sums.get(name, 0.) + x

  def is_due(self) -> bool:
    """Returns whether the last update completes a row."""
    return self._latest.env_steps >= self._next_row

  def write(self) -> None:
    """Writes a row of the trajectories since the last row, if there are any."""
    if not self.count:
      return
    self._run.write(self._run.job.seeds[self._index], self._latest.env_steps,
                    self._updates, self._return_sum, self._episodes,
                    {name: x / self.count for name, x in self._sums.items()})
    self.kept, self._kept_updates = self._latest, self._updates
    self._begin_row(self.kept.env_steps)

  def save(self, now: bool = False) -> None:
    """Saves the snapshot at the last row, if there is one."""
    if self.kept is not None:
      self._save(self._index, self.kept.env_steps, now)

  def save_end(self) -> None:
    """Saves a checkpoint from which a resume starts the next agent."""
    self._save(self._index + 1, 0, now=True)

  def _save(self, index: int, env_steps: int, now: bool) -> None:
    self._run.save({'index': index, 'env_steps': env_steps,
                    'updates': self._kept_updates}, self.kept.state, now)


def _train_on_host(run: run_record.TrainingRun, batches, learner, index: int,
                   snapshot: Optional[host_loop.Snapshot],
                   updates: int) -> bool:
  """Trains one agent to its end; returns False if it was stopped."""
  job, seed = run.job, run.job.seeds[index]
  before = index * job.env_steps  # steps of the agents before this one
  record = _AgentRecord(run, index, snapshot, updates)
  training = host_loop.train(batches, learner, job.settings,
                             loading.load_eta(job, seed), seed, job.env_steps,
                             snapshot, run.watchdog)
  try:
    for progress in training:
      run.show(seed, progress.env_steps, before + progress.env_steps)
      if progress.metrics is not None:
        record.add(progress)
        ended = (progress.env_steps >= job.env_steps
                 or not run_record.finite(progress.metrics))
        if record.is_due() or ended or run.stop.is_set():
          record.write()
          if ended:
            break
          record.save()
      if run.stop.is_set() and (
          # Else the next update writes a row and stops, unless it never ends.
          not record.count
          or run.watchdog.longest_call_s() >= call_watchdog.GRACE_S):
        record.write()
        record.save(now=True)
        return False
  except host.EnvironmentFailure as error:
    record.write()
    record.save(now=True)
    more = '' if record.kept is None else (
        f'; saved after {record.kept.env_steps} steps of seed {seed}; the same '
        'command resumes there')
    raise loading.job_error(job, error, more) from error
  finally:
    training.close()
  run_record.save_agent(job, run.directory, seed, batches[0],
                        record.kept.state.theta)
  record.save_end()
  return True
