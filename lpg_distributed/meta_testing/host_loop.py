"""The loop of meta-testing for environments that are stepped on the host.

Acting, emulation and learning compete for the same cores. So environments are
divided into groups, and each group has a thread that alternates between acting
and stepping. The threads then compute the parts of the gradient together. With
as many groups as cores, no core is idle.

The number of groups changes only the order of sums. No group acts while the
agent learns, so trajectories are on-policy.
"""

from collections import abc
from concurrent import futures
import threading
from typing import Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import jax
import numpy as np

from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import lpg_network
from lpg_distributed.core.update_rules import base as rule_lib
from lpg_distributed.envs import host
from lpg_distributed.meta_testing import call_watchdog
from lpg_distributed.meta_testing import daemon_pool
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import minibatches
from lpg_distributed.meta_testing import settings as settings_lib

# Largest number of steps times environments in one part of a gradient. A part
# cannot be interrupted. With the network of Table 4 it takes about 0.07 s on
# one core.
_PART_SIZE = 80
# Longest time between two items of `train`, except during compilation.
_HEARTBEAT_S = 0.1


class Snapshot(NamedTuple):
  """A state of training to resume from."""
  state: learner_lib.AgentState
  env_steps: int  # steps so far, over all environments


class TrainingProgress(NamedTuple):
  """The progress of training."""
  env_steps: int  # steps so far, over all environments
  # Raw returns of the episodes that ended since the last item, ordered by step.
  episode_returns: tuple[float, ...]
  state: learner_lib.AgentState
  metrics: Optional[Mapping[str, float]]  # those of an update that just ended


# Yields progress and returns the new state.
_Update = abc.Generator[
    'TrainingProgress', None, learner_lib.AgentState]


class _GeneratorClosed(Exception):
  """The caller of `train` closed the iterator."""


def part_steps(num_steps: int, num_envs: int) -> int:
  """Returns the steps in a part of the gradient: a divisor of `num_steps`."""
  fitting = [n for n in range(1, num_steps + 1)
             if num_steps % n == 0 and n * num_envs <= _PART_SIZE]
  return max(fitting, default=1)


def _cut(observations: np.ndarray, actions: np.ndarray,
         targets: rule_lib.Targets,
         kept: Optional[Sequence[learner_lib.Activations]] = None
         ) -> list[learner_lib.Part]:
  """Divides T steps of some environments into parts of fewer steps."""
  num_steps, num_envs = actions.shape
  size = part_steps(num_steps, num_envs)
  slices = [slice(i, i + size) for i in range(0, num_steps, size)]
  return [learner_lib.Part(
      observations[steps], actions[steps],
      jax.tree_util.tree_map(lambda x, steps=steps: x[steps], targets),
      None if kept is None else tuple(kept[steps])) for steps in slices]


class _ThreadGroup:
  """Environments that one thread steps, and their part of a trajectory."""

  def __init__(self, environment: host.HostEnvironment, num_steps: int,
               seed: int, stop: threading.Event,
               watchdog: call_watchdog.CallWatchdog):
    self.num_envs = environment.num_envs
    self._environment = environment
    self._stop, self._watchdog = stop, watchdog
    with watchdog.watch('reset'):
      first = environment.reset(seed)
    self.observations = np.empty((num_steps + 1,) + first.shape, first.dtype)
    self.observations[0] = first
    self.actions = np.empty((num_steps, self.num_envs), np.int32)
    self.rewards, self.discounts = np.empty(
        (2, num_steps, self.num_envs), np.float32)
    self.kept = []
    self.returns = []  # per step, returns of the episodes that ended in it
    self.taken = 0  # steps of this trajectory so far

  def collect(self, learner: learner_lib.Learner, theta: types.Params,
              uniform: np.ndarray) -> None:
    """Collects a trajectory; `uniform` [T, B] in [0, 1) selects actions."""
    self.kept, self.returns, self.taken = [], [], 0
    for t in range(len(self.actions)):
      if self._stop.is_set():
        raise _GeneratorClosed()
      action, kept = self.act(learner, theta, t, uniform)
      self.actions[t] = action
      self.kept.append(kept)
      with self._watchdog.watch('step'):
        step = self._environment.step(self.actions[t])
      self.observations[t + 1] = step.observation
      self.rewards[t], self.discounts[t] = step.reward, step.discount
      self.returns.append(step.episode_returns)
      self.taken = t + 1
    # The rule needs the outputs on the last state. The action is not taken.
    self.kept.append(self.act(learner, theta, -1, uniform)[1])

  def act(self, learner: learner_lib.Learner, theta: types.Params, t: int,
          uniform: np.ndarray) -> tuple[jax.Array, learner_lib.Activations]:
    return learner.act_and_keep(theta, self.observations[t], uniform[t])

  def start_next(self) -> None:
    """Starts the next trajectory at the last observation of this one."""
    self.observations[0] = self.observations[-1]
    self.kept = []

  def parts(self, targets: rule_lib.Targets) -> list[learner_lib.Part]:
    """Returns the trajectory in parts; `targets` are those of this group."""
    return _cut(self.observations, self.actions, targets, self.kept)


def _experience(learner: learner_lib.Learner,
                groups: Sequence[_ThreadGroup]) -> rule_lib.Experience:
  """Joins the groups' trajectories, without observations.

  No rule reads observations.
  """
  join = lambda name: np.concatenate(
      [getattr(group, name) for group in groups], axis=1)
  rows = np.concatenate(
      [np.stack([kept.rows for kept in group.kept]) for group in groups],
      axis=1)
  return rule_lib.Experience(
      types.Trajectory(None, join('actions'), join('rewards'),
                       join('discounts')), learner.split(rows))


def _returns(groups: Sequence[_ThreadGroup]) -> tuple[float, ...]:
  """Returns of the episodes that ended, ordered by step, then environment."""
  by_step = zip(*(group.returns for group in groups))
  return tuple(x for step in by_step for returns in step for x in returns)


def _parts(groups: Sequence[_ThreadGroup], targets: rule_lib.Targets
           ) -> list[learner_lib.Part]:
  """Divides the trajectories of all groups, with their targets, into parts."""
  targets = jax.tree_util.tree_map(np.asarray, targets)
  parts, first = [], 0
  for group in groups:
    rows = slice(first, first + group.num_envs)
    parts += group.parts(jax.tree_util.tree_map(
        lambda x, rows=rows: x[:, rows], targets))
    first += group.num_envs
  return parts


def _seed(seed: int, taken: int) -> int:
  """Seed of the environments: `seed`, or another one after a resume."""
  if not taken:
    return seed
  return int(np.random.SeedSequence([seed, taken]).generate_state(1)[0] >> 1)


class _Trainer:
  """The agent, its groups of environments and their threads; see `train`.

  `reset` and `update` are generators, which yield progress while threads work.
  """

  def __init__(self, environments: Sequence[host.HostEnvironment],
               learner: learner_lib.Learner,
               settings: settings_lib.AgentSettings, eta: lpg_network.Eta,
               seed: int, env_steps: int, snapshot: Optional[Snapshot],
               watchdog: Optional[call_watchdog.CallWatchdog]):
    self._environments, self._learner = environments, learner
    self._eta, self._seed = eta, seed
    self._num_steps, self._hyper = settings.trajectory_steps, settings.hyper()
    self._num_envs = sum(environment.num_envs for environment in environments)
    self._lifetime = settings.lifetime(self._num_envs, env_steps)
    init_key, act_key = jax.random.split(jax.random.PRNGKey(seed))
    if snapshot is None:
      snapshot = Snapshot(learner.init(init_key), 0)
    self._state = snapshot.state
    self._taken = snapshot.env_steps // self._num_envs  # of each environment
    shape = (self._num_steps, self._num_envs)
    self._draw = jax.jit(lambda taken: jax.random.uniform(
        jax.random.fold_in(act_key, taken), shape))
    self._pass_keys = jax.jit(lambda taken: minibatches.pass_keys(
        jax.random.fold_in(act_key, taken), settings.passes))
    self._stop = threading.Event()
    self._watchdog = watchdog or call_watchdog.CallWatchdog(
        'an environment', self._stop)
    self._pool = daemon_pool.DaemonPool(len(environments))
    self._groups: list[_ThreadGroup] = []
    self._compiled = False

  @property
  def env_steps(self) -> int:
    """Steps of all whole trajectories so far, over all environments."""
    return self._taken * self._num_envs

  def _in_threads(self, function, items):
    """Calls `function` on all items; yields progress, returns the results."""
    running = [self._pool.submit(function, *item) for item in items]
    while futures.wait(running, _HEARTBEAT_S)[1]:
      steps = self.env_steps + sum(g.taken * g.num_envs for g in self._groups)
      yield TrainingProgress(steps, (), self._state, None)
    return [job.result() for job in running]

  def reset(self) -> Iterator[TrainingProgress]:
    """Resets all environments."""
    # In a thread, since a reset may never return.
    for environment in self._environments:
      self._groups += yield from self._in_threads(_ThreadGroup, [(
          environment, self._num_steps, _seed(self._seed, self._taken),
          self._stop, self._watchdog)])
    yield TrainingProgress(self.env_steps, (), self._state, None)

  def update(self) -> Iterator[TrainingProgress]:
    """Collects a trajectory and learns from it."""
    yield from self._collect()
    experience = _experience(self._learner, self._groups)
    state, life = self._learner.observe(
        self._state, experience.trajectory.reward, agent_life.Age(
            self._taken // self._num_steps - 1, self._lifetime))
    targets, metrics = self._learner.compute_targets(
        self._eta, self._hyper, experience._replace(life=life))
    if self._learner.divide is None:
      state = yield from self._descend(state, _parts(self._groups, targets))
    else:
      state = yield from self._descend_in_passes(state, targets)
    self._state = state
    yield TrainingProgress(self.env_steps, _returns(self._groups), self._state,
                           {name: float(x) for name, x in metrics.items()})
    for group in self._groups:
      group.start_next()

  def _collect(self) -> Iterator[TrainingProgress]:
    groups, theta = self._groups, self._state.theta
    splits = np.cumsum([group.num_envs for group in groups])[:-1]
    uniforms = np.split(np.asarray(self._draw(self._taken)), splits, axis=1)
    if not self._compiled:  # Compile once, before the threads start.
      for group, uniform in zip(groups, uniforms):
        group.act(self._learner, theta, 0, uniform)
    yield from self._in_threads(_ThreadGroup.collect, [
        (group, self._learner, theta, uniform)
        for group, uniform in zip(groups, uniforms)])
    self._taken += self._num_steps
    for group in groups:
      group.taken = 0

  def _descend(self, state: learner_lib.AgentState,
               parts: Sequence[learner_lib.Part]
               ) -> _Update:
    """Yields progress; returns the state after one update from all parts."""
    items = [(state.theta, part) for part in parts]
    if not self._compiled:
      yield from self._in_threads(self._gradient, items[:1])
      self._compiled = True
    gradients = yield from self._in_threads(self._gradient, items)
    return jax.block_until_ready(self._learner.update(
        self._hyper, state, gradients,
        np.float32(sum(part.action.size for part in parts))))

  def _descend_in_passes(
      self, state: learner_lib.AgentState, targets: rule_lib.Targets
  ) -> _Update:
    """Like `_descend`, with an update for each minibatch of each pass."""
    observations, actions = (
        np.concatenate([getattr(group, name)[:self._num_steps]
                        for group in self._groups], axis=1)
        for name in ('observations', 'actions'))
    # The trajectory began before `_taken` counted its steps.
    for key in self._pass_keys(self._taken - self._num_steps):
      for chosen, part_targets in jax.tree_util.tree_map(
          np.asarray, self._learner.divide(key, targets)):
        state = yield from self._descend(state, _cut(
            observations[:, chosen], actions[:, chosen], part_targets))
    return state

  def _gradient(self, theta: types.Params, part: learner_lib.Part
                ) -> types.Params:
    # JAX may read NumPy arrays in place, so wait before they change.
    return jax.block_until_ready(self._learner.gradient(
        self._hyper, theta, part))

  def close(self) -> None:
    """Ends the threads; does not wait for environments that do not answer."""
    self._stop.set()
    self._pool.close()
    while (not self._pool.join(_HEARTBEAT_S)
           and self._watchdog.longest_call_s() < call_watchdog.GRACE_S):
      pass


def train(environments: Union[host.HostEnvironment,
                              Sequence[host.HostEnvironment]],
          learner: learner_lib.Learner, settings: settings_lib.AgentSettings,
          eta: lpg_network.Eta, seed: int, env_steps: int,
          snapshot: Optional[Snapshot] = None,
          watchdog: Optional[call_watchdog.CallWatchdog] = None
          ) -> Iterator[TrainingProgress]:
  """Trains an agent from the start or from a snapshot.

  Yields at least every tenth of a second, except during compilation, so that
  the caller can stop at any time. Closing the iterator waits for computations
  that cannot be interrupted. It waits for a call of an environment no longer
  than `call_watchdog.GRACE_S`; after that the caller must not use it any more.

  Args:
    environments: one batch of environments, or several groups of one kind that
      form a batch together. Groups must differ in their randomness under the
      same seed. They are reset here; the caller closes them.
    learner: a learner for the environments' specs.
    settings: the settings that `learner` was built with.
    eta: the rule's parameters.
    seed: seed of the network, the actions and the environments.
    env_steps: number of steps, over all environments, including those before
      `snapshot`. Training ends with the trajectory that reaches it. A rule that
      sees the age has it as the agent's lifetime.
    snapshot: state to resume from. The environments begin new episodes.
    watchdog: records the calls of environments that have not returned; None: a
      new one.
  """
  if not isinstance(environments, (list, tuple)):
    environments = [environments]
  trainer = _Trainer(environments, learner, settings, eta, seed, env_steps,
                     snapshot, watchdog)
  try:
    yield from trainer.reset()
    while trainer.env_steps < env_steps:
      yield from trainer.update()
  finally:
    trainer.close()
