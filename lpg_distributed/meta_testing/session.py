"""Runs a job: trains its agents, writes rows and checkpoints, resumes.

With a pure-JAX environment all seeds run at once in one compiled loop, and a
resume is exact. With an environment on the host, seeds run one after another.
Its state cannot be saved: a resume restores the agent, its optimiser, its
counters and its random numbers, but environments begin new episodes.
"""

import threading
from typing import Callable, Optional

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.core.update_rules import registry as rule_registry
from lpg_distributed.envs import base
from lpg_distributed.meta_testing import agent_checkpoint as checkpoint_lib
from lpg_distributed.meta_testing import call_watchdog
from lpg_distributed.meta_testing import compiled_loop
from lpg_distributed.meta_testing import host_session
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import minibatches
from lpg_distributed.meta_testing import run_record
from lpg_distributed.store import own_directory

_MAX_TRAJECTORIES = 100  # per compiled chunk, which cannot be interrupted


class JobInUseError(jobs.JobError):
  """Another process uses the job's directory; the message is one line."""


def _run_jitted(run: run_record.TrainingRun,
                environment: base.Environment) -> bool:
  job = run.job
  seeds, rule = len(job.seeds), loading.make_rule(job)
  loop = compiled_loop.make_loop(
      environment, loading.make_network(environment.observation_spec()),
      job.settings, rule, job.num_envs,
      job.settings.lifetime(job.num_envs, job.env_steps))
  etas = [loading.load_eta(job, seed) for seed in job.seeds]
  own_eta = job.rule == rule_registry.UNTRAINED
  eta = (jax.tree_util.tree_map(lambda *xs: jnp.stack(xs), *etas) if own_eta
         else etas[0])
  hyper = jax.tree_util.tree_map(
      lambda x: jnp.full(seeds, x), job.settings.hyper())
  keys = jnp.stack([jax.random.PRNGKey(seed) for seed in job.seeds])
  steps = job.settings.trajectory_steps * job.num_envs
  wanted = -(-job.env_steps // steps)  # number of trajectories
  chunks = max(min(run_record.ROWS, wanted), -(-wanted // _MAX_TRAJECTORIES))
  size = -(-wanted // chunks)
  updates = size * minibatches.updates_per_trajectory(job.settings, rule)
  init = jax.jit(jax.vmap(loop.init))
  advance = jax.jit(jax.vmap(
      lambda eta, hyper, state: loop.advance(eta, hyper, state, size),
      in_axes=(0 if own_eta else None, 0, 0)), donate_argnums=2)
  if run.checkpoint is None:
    done, state = 0, init(keys)
  else:
    done, = checkpoint_lib.counts(run.checkpoint, 'chunks')
    # On a CPU device arrays may share NumPy's memory. `advance` overwrites its
    # argument, so the argument must be a copy.
    state = jax.tree_util.tree_map(jnp.copy, jax.device_put(
        checkpoint_lib.restore(
            run.checkpoint, jax.eval_shape(init, keys))))
  env_steps = done * size * steps
  run.open(dict.fromkeys(job.seeds, env_steps))
  run.show(None, env_steps, env_steps * seeds)
  while done * size < wanted and not run.stop.is_set():
    with run.watchdog.watch('compiling or running its steps'):
      state, window = advance(eta, hyper, state)
      window = jax.tree_util.tree_map(np.asarray, window)
    done += 1
    env_steps = done * size * steps
    if not np.all(np.isfinite(window.return_sum)):
      raise jobs.JobError(f'{job.environment} gave rewards that are not finite '
                          f'before step {env_steps} of an agent; allowed: '
                          'finite numbers')
    for i, seed in enumerate(job.seeds):
      run.write(seed, env_steps, done * updates, float(window.return_sum[i]),
                int(window.episodes[i]),
                {name: x[i] for name, x in window.metrics.items()})
    run.save({'chunks': done}, state)
    run.show(None, env_steps, env_steps * seeds)
  run.save({'chunks': done}, state, now=True)
  finished = done * size >= wanted
  if finished:
    for i, seed in enumerate(job.seeds):
      theta = jax.tree_util.tree_map(lambda x, i=i: x[i], state.agent.theta)
      run_record.save_agent(job, run.directory, seed, environment, theta)
  return finished


def _lock(directory: str):
  """Locks the job's directory; creates it if it does not exist."""
  try:
    own_directory.make(directory)
    own_directory.require_own(directory)
    return own_directory.hold(directory)
  except own_directory.DirectoryInUseError as error:
    raise JobInUseError(str(error)) from None
  except own_directory.DirectoryError as error:
    raise jobs.JobError(str(error)) from None
  except OSError as error:
    raise jobs.JobError(f'{directory} cannot be written: {error.strerror}; '
                        'choose another directory') from None


def run(job: jobs.Job, directory: str, stop: Optional[threading.Event] = None,
        watch: run_record.Watch = lambda status: None,
        num_threads: Optional[int] = None,
        warn: Callable[[str], None] = logging.warning,
        end_process: Optional[Callable[[], None]] = None) -> bool:
  """Starts a job, or resumes it.

  Args:
    job: see `jobs.make_job`.
    directory: directory of its files: `result.jsonl`, `checkpoint.npz`, agents.
    stop: once set, the job writes a checkpoint and ends.
    watch: called with the job's status, a `run_record.Status`.
    num_threads: number of threads for acting, emulation and learning on Atari;
      None: one per processor.
    warn: called with a line about a call that has not returned.
    end_process: see `call_watchdog.CallWatchdog`.

  Returns:
    True if the job is done; False if it was stopped.

  Raises:
    JobInUseError: another process uses the directory.
    JobError, ResultError, AgentCheckpointError: the message is one line.
  """
  stop = stop or threading.Event()
  with call_watchdog.CallWatchdog(
      job.environment, stop, warn, end_process) as watchdog:
    with watchdog.watch('creating the environment'):
      loaded = loading.load_environment(job)
    batches = []
    try:
      if loaded.jax is None:
        with watchdog.watch('creating the environment'):
          batches = loading.load_batches(loaded, job, num_threads)
      with _lock(directory):
        running = run_record.TrainingRun(
            job, directory, stop, watch,
            batches[0].frames_per_step if batches else 1, watchdog)
        try:
          if loaded.jax is not None:
            return _run_jitted(running, loaded.jax)
          return host_session.run_host(running, batches)
        finally:
          running.close()
    finally:
      if not watchdog.longest_call_s():  # Else a thread still steps a batch.
        for batch in batches:
          batch.close()
