"""The loop of meta-testing around environments that the host steps.

Acting, emulation and learning all want the same cores. So the environments
come in groups, each with a thread that acts and steps in turn, and the
threads share the gradient's parts out among themselves: as long as there are
as many groups as cores, none is idle, and what is computed is the same for any
number of groups but for the order of sums. Nothing is learned while somebody
acts, so trajectories are on-policy.
"""

from concurrent import futures
import threading
from typing import Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import jax
import numpy as np

from lpg_distributed import types
from lpg_distributed.core import lpg_network
from lpg_distributed.core.update_rules import base as rule_lib
from lpg_distributed.envs import host
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib

# Steps times environments in one part of a gradient. A part takes about 0.07 s
# on one core with the network of Table 4, and cannot be interrupted.
_PART_SIZE = 80
# Seconds between two items of `train` while there is nothing new.
_HEARTBEAT_S = 0.1


class Snapshot(NamedTuple):
  """Where a training may go on."""
  state: learner_lib.AgentState
  env_steps: int  # that it has behind it


class Progress(NamedTuple):
  """Where a training is."""
  env_steps: int  # so far, over all environments
  # Raw, of the episodes that ended since the last item, in the order of steps.
  episode_returns: tuple[float, ...]
  state: learner_lib.AgentState
  metrics: Optional[Mapping[str, float]]  # of an update that was done just now


class _Left(Exception):
  """The caller of `train` wants no more."""


def part_steps(num_steps: int, num_envs: int) -> int:
  """Steps in a part of the gradient: a divisor of `num_steps`."""
  fitting = [n for n in range(1, num_steps + 1)
             if num_steps % n == 0 and n * num_envs <= _PART_SIZE]
  return max(fitting, default=1)


class _Group:
  """Environments that one thread steps, and their part of a trajectory."""

  def __init__(self, environment: host.HostEnvironment, num_steps: int,
               seed: int, stop: threading.Event):
    self.num_envs = environment.num_envs
    self._environment = environment
    self._stop = stop
    first = environment.reset(seed)
    self.observations = np.empty((num_steps + 1,) + first.shape, first.dtype)
    self.observations[0] = first
    self.actions = np.empty((num_steps, self.num_envs), np.int32)
    self.rewards, self.discounts = np.empty(
        (2, num_steps, self.num_envs), np.float32)
    self.kept = []
    self.returns = []  # per step, of the episodes that ended in it
    self.taken = 0  # steps of this trajectory

  def collect(self, learner: learner_lib.Learner, theta: types.Params,
              uniform: np.ndarray) -> None:
    """Acts and steps through a trajectory; `uniform` is [T, B]."""
    self.kept, self.returns, self.taken = [], [], 0
    for t in range(len(self.actions)):
      if self._stop.is_set():
        raise _Left()
      action, kept = self.act(learner, theta, t, uniform)
      self.actions[t] = action
      self.kept.append(kept)
      step = self._environment.step(self.actions[t])
      self.observations[t + 1] = step.observation
      self.rewards[t], self.discounts[t] = step.reward, step.discount
      self.returns.append(step.episode_returns)
      self.taken = t + 1
    # The action is not taken, but the rule wants to hear of the last state.
    self.kept.append(self.act(learner, theta, -1, uniform)[1])

  def act(self, learner: learner_lib.Learner, theta: types.Params, t: int,
          uniform: np.ndarray) -> tuple[jax.Array, learner_lib.Kept]:
    return learner.act_and_keep(theta, self.observations[t], uniform[t])

  def open_next(self) -> None:
    self.observations[0] = self.observations[-1]
    self.kept = []

  def parts(self, targets: rule_lib.Targets) -> Iterator[learner_lib.Part]:
    """The trajectory in parts; `targets` are those of this group."""
    num_steps = len(self.actions)
    size = part_steps(num_steps, self.num_envs)
    for i in range(0, num_steps, size):
      yield learner_lib.Part(
          self.observations[i:i + size], self.actions[i:i + size],
          jax.tree_util.tree_map(lambda x, i=i: x[i:i + size], targets),
          tuple(self.kept[i:i + size]))


def _experience(learner: learner_lib.Learner,
                groups: Sequence[_Group]) -> rule_lib.Experience:
  """All groups' trajectory, without observations, which no rule sees."""
  join = lambda name: np.concatenate(
      [getattr(group, name) for group in groups], axis=1)
  rows = np.concatenate(
      [np.stack([kept.rows for kept in group.kept]) for group in groups],
      axis=1)
  return rule_lib.Experience(
      types.Trajectory(None, join('actions'), join('rewards'),
                       join('discounts')), learner.split(rows))


def _returns(groups: Sequence[_Group]) -> tuple[float, ...]:
  """Of the trajectory's episodes, by step and then by environment."""
  by_step = zip(*(group.returns for group in groups))
  return tuple(x for step in by_step for returns in step for x in returns)


def _parts(groups: Sequence[_Group], targets: rule_lib.Targets
           ) -> list[learner_lib.Part]:
  """All groups' trajectory, with its targets, cut into parts."""
  targets = jax.tree_util.tree_map(np.asarray, targets)
  parts, first = [], 0
  for group in groups:
    rows = slice(first, first + group.num_envs)
    parts += group.parts(jax.tree_util.tree_map(
        lambda x, rows=rows: x[:, rows], targets))
    first += group.num_envs
  return parts


def _seed(seed: int, taken: int) -> int:
  """Of the environments: `seed`, and others where a training goes on."""
  if not taken:
    return seed
  return int(np.random.SeedSequence([seed, taken]).generate_state(1)[0] >> 1)


def train(environments: Union[host.HostEnvironment,
                              Sequence[host.HostEnvironment]],
          learner: learner_lib.Learner, settings: settings_lib.Settings,
          eta: lpg_network.Eta, seed: int, env_steps: int,
          snapshot: Optional[Snapshot] = None) -> Iterator[Progress]:
  """Trains an agent from its birth, or from where it was.

  Yields at least every tenth of a second, except while something is compiled,
  so that whoever asks for the next item may stop instead; closing the iterator
  waits for what cannot be interrupted.

  Args:
    environments: one, or several of a kind that are one batch together and
      differ in their randomness under the same seed. Reset here; closed by
      whoever made them.
    learner: for their specs.
    settings: those of `learner`.
    eta: the rule's parameters.
    seed: of the network, the actions and the environments.
    env_steps: how long, over all environments, since birth; ends with the
      trajectory that reaches it.
    snapshot: where to go on. The environments begin new episodes.
  """
  if not isinstance(environments, (list, tuple)):
    environments = [environments]
  num_steps, hyper = settings.trajectory_steps, settings.hyper()
  num_envs = sum(environment.num_envs for environment in environments)
  init_key, act_key = jax.random.split(jax.random.PRNGKey(seed))
  if snapshot is None:
    snapshot = Snapshot(learner.init(init_key), 0)
  state = snapshot.state
  taken = snapshot.env_steps // num_envs  # steps of each environment
  draw = jax.jit(lambda taken: jax.random.uniform(
      jax.random.fold_in(act_key, taken), (num_steps, num_envs)))
  stop = threading.Event()
  groups = [_Group(environment, num_steps, _seed(seed, taken), stop)
            for environment in environments]
  splits = np.cumsum([group.num_envs for group in groups])[:-1]
  pool = futures.ThreadPoolExecutor(len(groups))

  def in_threads(function, items):
    running = [pool.submit(function, *item) for item in items]
    while futures.wait(running, _HEARTBEAT_S)[1]:
      steps = taken * num_envs + sum(g.taken * g.num_envs for g in groups)
      yield Progress(steps, (), state, None)
    return [job.result() for job in running]

  # Arrays of the host may be read in place: wait before they change.
  def gradient(part):
    return jax.block_until_ready(learner.gradient(
        hyper, state.theta, part))

  compiled = False
  try:
    yield Progress(taken * num_envs, (), state, None)
    while taken * num_envs < env_steps:
      uniforms = np.split(np.asarray(draw(taken)), splits, axis=1)
      if not compiled:  # Before two threads do so.
        for group, uniform in zip(groups, uniforms):
          group.act(learner, state.theta, 0, uniform)
      yield from in_threads(_Group.collect, [
          (group, learner, state.theta, uniform)
          for group, uniform in zip(groups, uniforms)])
      taken += num_steps
      for group in groups:
        group.taken = 0
      targets, metrics = learner.compute_targets(
          eta, hyper, _experience(learner, groups))
      parts = _parts(groups, targets)
      if not compiled:
        yield from in_threads(gradient, [(parts[0],)])
        compiled = True
      gradients = yield from in_threads(gradient, [(part,) for part in parts])
      state = jax.block_until_ready(learner.update(
          hyper, state, gradients, np.float32(num_steps * num_envs)))
      yield Progress(taken * num_envs, _returns(groups), state,
                     {name: float(x) for name, x in metrics.items()})
      for group in groups:
        group.open_next()
  finally:
    stop.set()
    pool.shutdown(wait=True)
