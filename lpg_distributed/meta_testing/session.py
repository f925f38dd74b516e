"""Runs a job: trains its agents, writes rows and checkpoints, resumes.

With a pure-JAX environment all seeds run at once in one compiled loop, and a
resume is exact. With an environment on the host, seeds run one after another.
Its state cannot be saved: a resume restores the agent, its optimiser, its
counters and its random numbers, but environments begin new episodes.
"""

import math
import os
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Optional

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.core import observation_networks
from lpg_distributed.core import policy as policy_lib
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base as rule_lib
from lpg_distributed.core.update_rules import registry as rule_registry
from lpg_distributed.envs import base
from lpg_distributed.envs import host
from lpg_distributed.envs import protocol
from lpg_distributed.envs import registry
from lpg_distributed.meta_testing import agent_checkpoint as checkpoint_lib
from lpg_distributed.meta_testing import compiled_loop
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import results
from lpg_distributed.store import eta_file
from lpg_distributed.store import own_directory
from lpg_distributed.store import policy_file
from lpg_distributed.store import published

_ROWS = 50  # smallest number of rows per agent
_MOST_UPDATES = 100  # per compiled chunk, which cannot be interrupted
_CHECKPOINT_PERIOD_S = 30.
# Folded into an agent's key to draw eta for the rule `random`.
_ETA_FOLD = 0x657461


class JobInUseError(jobs.JobError):
  """Another process uses the directory."""


class Status(NamedTuple):
  """The status of a running job."""
  seed: Optional[int]  # the agent in training; None: all at once
  env_steps: int  # steps so far, of each agent in training
  env_steps_per_s: float  # over all agents, since the start of this launch
  seconds_left: Optional[float]  # until the whole job is done
  last_return: Optional[float]  # mean over agents of their last rows' returns


Watch = Callable[[Status], None]


def load_eta(job: jobs.Job, seed: int) -> Any:
  """Returns eta for one agent; () for a rule without eta."""
  if job.rule_config is None:
    return ()
  if job.rule == rule_registry.UNTRAINED:
    key = jax.random.fold_in(jax.random.PRNGKey(seed), _ETA_FOLD)
    return rule_vector.init(job.rule_config, key)
  saved = eta_file.load(published.resolve(job.eta))
  return rule_vector.unravel(saved.rule, jnp.asarray(saved.eta))


def make_rule(job: jobs.Job) -> rule_lib.UpdateRule:
  """Makes the job's update rule."""
  return rule_registry.make(rule_registry.kind_of(job.rule), job.rule_config)


def load_environment(job: jobs.Job) -> registry.LoadedEnvironment:
  """Loads the job's environment.

  Raises:
    JobError: there is no such environment, or agents cannot use it.
  """
  try:
    loaded = registry.load(job.environment, job.preset or 'dm_noop')
    if loaded.jax is not None:
      if loaded.kind == 'module':
        protocol.check(loaded.jax)
      compiled_loop.check(loaded.jax)
      observation_networks.kind(loaded.jax.observation_spec())
    return loaded
  except (ValueError, ImportError) as error:
    raise _job_error(job, error) from None


def _job_error(job: jobs.Job, error: Exception,
               more: str = '') -> jobs.JobError:
  """Converts an error to a JobError that names the environment once."""
  text = ' '.join(str(error).split())
  where = '' if text.startswith(job.environment) else f'{job.environment}: '
  return jobs.JobError(where + text + more)


def make_network(spec) -> Callable[[int], Any]:
  """Returns a function from the number of outputs to a network for `spec`."""
  return lambda num_outputs: observation_networks.make_network(
      spec, num_outputs)


def _save_agent(job: jobs.Job, directory: str, seed: int, environment: Any,
                theta: Any) -> None:
  """Keeps a trained agent; `environment` has its specifications."""
  num_actions = int(environment.action_spec().num_values)
  form = policy_lib.Form(
      job.environment, environment.observation_spec(), num_actions,
      learner_lib.num_outputs(num_actions, make_rule(job).outputs))
  policy_file.save_in(directory, seed, policy_lib.Policy(
      form, theta, info={'rule': job.rule, 'seed': seed}))


def _finite(metrics: Mapping[str, Any]) -> bool:
  return all(math.isfinite(float(x)) for x in metrics.values())


class _TrainingRun:
  """The state that both loops share: files, clock, status."""

  def __init__(self, job: jobs.Job, directory: str, stop: threading.Event,
               watch: Watch, frames_per_step: int):
    self.job, self.directory = job, directory
    self.stop, self._watch = stop, watch
    self._frames_per_step = frames_per_step
    self._header = results.make_header(job, frames_per_step)
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
    mean = return_sum / episodes if episodes else None
    if mean is not None:
      self._returns[seed] = mean
    row = {'seed': seed, 'env_steps': env_steps,
           'frames': env_steps * self._frames_per_step, 'updates': updates,
           'seconds': round(time.monotonic() - self._start, 3),
           'return': mean, 'episodes': int(episodes),
           **{name: float(x) for name, x in metrics.items()}}
    if not _finite(metrics):
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
    if now or time.monotonic() - self._last_save > _CHECKPOINT_PERIOD_S:
      self._writer.sync()  # Rows must be on the disk before the checkpoint.
      checkpoint_lib.save(self.directory, header, tree)
      self._last_save = time.monotonic()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


def _run_jitted(run: _TrainingRun, environment: base.Environment) -> bool:
  job = run.job
  seeds = len(job.seeds)
  loop = compiled_loop.make_loop(
      environment, make_network(environment.observation_spec()), job.settings,
      make_rule(job), job.num_envs)
  etas = [load_eta(job, seed) for seed in job.seeds]
  own_eta = job.rule == rule_registry.UNTRAINED
  eta = (jax.tree_util.tree_map(lambda *xs: jnp.stack(xs), *etas) if own_eta
         else etas[0])
  hyper = jax.tree_util.tree_map(
      lambda x: jnp.full(seeds, x), job.settings.hyper())
  keys = jnp.stack([jax.random.PRNGKey(seed) for seed in job.seeds])
  steps_per_update = job.settings.trajectory_steps * job.num_envs
  updates = -(-job.env_steps // steps_per_update)
  chunks = max(min(_ROWS, updates), -(-updates // _MOST_UPDATES))
  size = -(-updates // chunks)
  init = jax.jit(jax.vmap(loop.init))
  advance = jax.jit(jax.vmap(
      lambda eta, hyper, state: loop.advance(eta, hyper, state, size),
      in_axes=(0 if own_eta else None, 0, 0)), donate_argnums=2)
  if run.checkpoint is None:
    done, state = 0, init(keys)
  else:
    done = run.checkpoint.header['chunks']
    # On a CPU device arrays may share NumPy's memory. `advance` overwrites its
    # argument, so the argument must be a copy.
    state = jax.tree_util.tree_map(jnp.copy, jax.device_put(
        checkpoint_lib.restore(
            run.checkpoint, jax.eval_shape(init, keys))))
  env_steps = done * size * steps_per_update
  run.open(dict.fromkeys(job.seeds, env_steps))
  run.show(None, env_steps, env_steps * seeds)
  while done * size < updates and not run.stop.is_set():
    state, window = advance(eta, hyper, state)
    window = jax.tree_util.tree_map(np.asarray, window)
    done += 1
    env_steps = done * size * steps_per_update
    if not np.all(np.isfinite(window.return_sum)):
      raise jobs.JobError(f'{job.environment} gave rewards that are not finite '
                          f'before step {env_steps} of an agent; allowed: '
                          'finite numbers')
    for i, seed in enumerate(job.seeds):
      run.write(seed, env_steps, done * size, float(window.return_sum[i]),
                int(window.episodes[i]),
                {name: x[i] for name, x in window.metrics.items()})
    run.save({'chunks': done}, state)
    run.show(None, env_steps, env_steps * seeds)
  run.save({'chunks': done}, state, now=True)
  finished = done * size >= updates
  if finished:
    for i, seed in enumerate(job.seeds):
      theta = jax.tree_util.tree_map(lambda x, i=i: x[i], state.agent.theta)
      _save_agent(job, run.directory, seed, environment, theta)
  return finished


def _make_batches(loaded: registry.LoadedEnvironment, num_envs: int,
                  num_threads: Optional[int]) -> list[Any]:
  if loaded.make_groups is None:
    return [loaded.make_host(num_envs)]
  return loaded.make_groups(num_envs,
                            num_threads or len(os.sched_getaffinity(0)))


def _run_host(run: _TrainingRun, batches: list[Any]) -> bool:
  job = run.job
  spec = batches[0].observation_spec()
  learner = learner_lib.make_learner(
      make_network(spec), int(batches[0].action_spec().num_values),
      job.settings, make_rule(job))
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


def _train_on_host(run: _TrainingRun, batches, learner, index: int,
                   snapshot: Optional[host_loop.Snapshot],
                   updates: int) -> bool:
  """Trains one agent to its end; returns False if it was stopped."""
  job, seed = run.job, run.job.seeds[index]
  before = index * job.env_steps  # steps of the agents before this one
  period = max(1, job.env_steps // _ROWS)
  next_row = period * ((snapshot.env_steps if snapshot else 0) // period + 1)
  return_sum, episodes, sums, count = 0., 0, {}, 0
  # Snapshot at the last row; later updates are repeated after a resume.
  kept = snapshot
  header = lambda: {'index': index, 'env_steps': kept.env_steps,
                    'updates': kept_updates}
  kept_updates = updates
  training = host_loop.train(batches, learner, job.settings,
                             load_eta(job, seed), seed, job.env_steps,
                             snapshot)
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
        broken = not _finite(progress.metrics)
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
      if run.stop.is_set() and not count:  # Otherwise after the next update.
        if kept is not None:
          run.save(header(), kept.state, now=True)
        return False
  except host.EnvironmentFailure as error:
    if count:
      run.write(seed, latest.env_steps, updates, return_sum, episodes,
                {name: x / count for name, x in sums.items()})
      kept, kept_updates = latest, updates
    more = ''
    if kept is not None:
      run.save(header(), kept.state, now=True)
      more = (f'; saved after {kept.env_steps} steps of seed {seed}, from '
              'where the same command goes on')
    raise _job_error(job, error, more) from error
  finally:
    training.close()
  _save_agent(job, run.directory, seed, batches[0], kept.state.theta)
  kept_state, index, kept = kept.state, index + 1, kept._replace(env_steps=0)
  run.save(header(), kept_state, now=True)
  return True


def _hold(directory: str):
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
        watch: Watch = lambda status: None,
        num_threads: Optional[int] = None) -> bool:
  """Starts a job, or resumes it.

  Args:
    job: see `jobs.make_job`.
    directory: directory of its files: `result.jsonl`, `checkpoint.npz`, agents.
    stop: once set, the job writes a checkpoint and ends.
    watch: called with the status.
    num_threads: on Atari, threads for acting, emulation and learning; None: one
      per processor.

  Returns:
    True if the job is done; False if it was stopped.

  Raises:
    JobInUseError: another process uses the directory.
    JobError, ResultError, AgentCheckpointError: the message is one line.
  """
  stop = stop or threading.Event()
  loaded = load_environment(job)
  batches = []
  try:
    if loaded.jax is None:
      try:
        batches = _make_batches(loaded, job.num_envs, num_threads)
        observation_networks.kind(batches[0].observation_spec())
      except (ValueError, ImportError) as error:
        raise _job_error(job, error) from None
    with _hold(directory):
      running = _TrainingRun(job, directory, stop, watch,
                             batches[0].frames_per_step if batches else 1)
      try:
        if loaded.jax is not None:
          return _run_jitted(running, loaded.jax)
        return _run_host(running, batches)
      finally:
        running.close()
  finally:
    for batch in batches:
      batch.close()
