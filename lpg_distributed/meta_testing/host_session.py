"""Runs a job whose environment is stepped on the host; see `session`."""

from typing import Any, Optional

import jax
import numpy as np

from lpg_distributed.envs import host
from lpg_distributed.meta_testing import agent_checkpoint as checkpoint_lib
from lpg_distributed.meta_testing import answers as answers_lib
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import loading
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
    index, env_steps, updates = (
        run.checkpoint.header[k] for k in ('index', 'env_steps', 'updates'))
    if env_steps:
      like = jax.eval_shape(learner.init, jax.random.PRNGKey(0))
      snapshot = host_loop.Snapshot(jax.device_put(checkpoint_lib.restore(
        run.checkpoint, like)), env_steps)
  done = dict.fromkeys(job.seeds[:index], np.inf)
  if snapshot is not None:
    done[job.seeds[index]] = snapshot.env_steps
  run.open(done)
  for i in range(index, len(job.seeds)):
    if not _train_on_host(run, batches, learner, i, snapshot, updates):
      return False
    snapshot, updates = None, 0
  return True


def _train_on_host(run: run_record.TrainingRun, batches, learner, index: int,
                   snapshot: Optional[host_loop.Snapshot],
                   updates: int) -> bool:
  """Trains one agent to its end; returns False if it was stopped."""
  job, seed = run.job, run.job.seeds[index]
  before = index * job.env_steps  # steps of the agents before this one
  period = max(1, job.env_steps // run_record.ROWS)
  next_row = period * ((snapshot.env_steps if snapshot else 0) // period + 1)
  return_sum, episodes, sums, count = 0., 0, {}, 0
  # Snapshot at the last row; later updates are repeated after a resume.
  kept = snapshot
  header = lambda: {'index': index, 'env_steps': kept.env_steps,
                    'updates': kept_updates}
  kept_updates = updates

  def write_latest():
    nonlocal kept, kept_updates
    run.write(seed, latest.env_steps, updates, return_sum, episodes,
              {name: x / count for name, x in sums.items()})
    kept, kept_updates = latest, updates

  training = host_loop.train(batches, learner, job.settings,
                             loading.load_eta(job, seed), seed, job.env_steps,
                             snapshot, run.answers)
  try:
    for progress in training:
      run.show(seed, progress.env_steps, before + progress.env_steps)
      if progress.metrics is not None:
        updates += 1
        count += 1
        episodes += len(progress.episode_returns)
        return_sum += sum(progress.episode_returns)
        for name, x in progress.metrics.items():
          sums[name] = sums.get(name, 0.) + x
        last = progress.env_steps >= job.env_steps
        broken = not run_record.finite(progress.metrics)
        if (progress.env_steps >= next_row or last or broken
            or run.stop.is_set()):
          run.write(seed, progress.env_steps, updates, return_sum, episodes,
                    {name: x / count for name, x in sums.items()})
          return_sum, episodes, sums, count = 0., 0, {}, 0
          next_row = period * (progress.env_steps // period + 1)
          kept = host_loop.Snapshot(progress.state, progress.env_steps)
          kept_updates = updates
          if last or broken:
            break
          run.save(header(), kept.state)
        latest = host_loop.Snapshot(progress.state, progress.env_steps)
      if run.stop.is_set() and (
          not count  # Otherwise after the next update, if there will be one.
          or run.answers.waiting_s() >= answers_lib.GRACE_S):
        if count:
          write_latest()
        if kept is not None:
          run.save(header(), kept.state, now=True)
        return False
  except host.EnvironmentFailure as error:
    if count:
      write_latest()
    more = ''
    if kept is not None:
      run.save(header(), kept.state, now=True)
      more = (f'; saved after {kept.env_steps} steps of seed {seed}, from '
              'where the same command goes on')
    raise loading.job_error(job, error, more) from error
  finally:
    training.close()
  run_record.save_agent(job, run.directory, seed, batches[0], kept.state.theta)
  kept_state, index, kept = kept.state, index + 1, kept._replace(env_steps=0)
  run.save(header(), kept_state, now=True)
  return True
