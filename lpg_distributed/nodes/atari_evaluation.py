"""One agent's life under one eta on one game, within a share of the machine.

It is saved now and then in the run's `evaluator/agent.npz`, with the eta that
it learns by, so that a node that is started again goes on with it.
"""

import contextlib
import math
import os
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from absl import logging
import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core import atari_network
from lpg_distributed.core import rule_vector
from lpg_distributed.envs import host
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.nodes import atari_record
from lpg_distributed.store import agent_file

_PROGRESS_PERIOD_S = 5.
_SAVE_PERIOD_S = 60.


class Task(NamedTuple):
  """What is evaluated."""
  meta_step: int
  game: str
  eta: np.ndarray  # [P]


class Pace:
  """Keeps work within a share of the machine, by threads and by pauses."""

  def __init__(self, share: float, num_cores: int):
    """`share` is of all cores, from above 0 to 1."""
    self.num_threads = max(1, int(share * num_cores))
    self._duty = min(1., share * num_cores / self.num_threads)
    self._begin = time.monotonic()

  def begin(self) -> None:
    self._begin = time.monotonic()

  def rest(self, stop: threading.Event) -> None:
    """After all threads have worked since the last rest, or `begin`."""
    worked = time.monotonic() - self._begin
    if self._duty < 1.:
      stop.wait(worked * (1. / self._duty - 1.))
    self.begin()


def evaluation_seed(seed: int, meta_step: int) -> int:
  """Differs between the evaluations of a run, is the same in a second run."""
  sequence = np.random.SeedSequence([seed, meta_step])
  return int(sequence.generate_state(1)[0] >> 1)


class Evaluations:
  """Trains agents, one after the other, and keeps the one at hand."""

  def __init__(self, config: config_lib.EvaluatorConfig,
               rule: config_lib.RuleConfig, run_dir: str, seed: int,
               make_environments: Callable[
                   ..., Sequence[host.HostEnvironment]]):
    """See `atari_evaluator.AtariEvaluator`."""
    self._config = config
    self._rule = rule
    self._seed = seed
    self._path = os.path.join(run_dir, 'evaluator', 'agent.npz')
    self._make_environments = make_environments
    self._settings = learner_lib.Settings(
        num_predictions=rule.num_predictions,
        learning_rate=config.learning_rate, kl_cost=config.kl_cost,
        discount=config.discount, trajectory_steps=config.trajectory_steps,
        use_baseline=config.use_baseline)
    self._learners: dict[Any, learner_lib.Learner] = {}
    self._pace = Pace(config.share, len(os.sched_getaffinity(0)))

  def _make_learner(self, environment: host.HostEnvironment
                    ) -> learner_lib.Learner:
    """Compiled once for all games of as many actions."""
    spec = environment.observation_spec()
    num_actions = int(environment.action_spec().num_values)
    key = num_actions, tuple(spec.shape)
    if key not in self._learners:
      self._learners[key] = learner_lib.make_learner(
          lambda outputs: atari_network.make_network(spec, outputs),
          num_actions, self._settings)
    return self._learners[key]

  def _identity(self) -> dict[str, Any]:
    """What a saved agent must agree with."""
    names = ('preset', 'num_envs', 'trajectory_steps', 'learning_rate',
             'kl_cost', 'discount', 'use_baseline')
    return {**{name: getattr(self._config, name) for name in names},
            'run_seed': self._seed}

  def interrupted(self) -> Optional[Task]:
    """The task of the agent that was saved; None if there is none to use."""
    like = {'eta': jax.ShapeDtypeStruct((rule_vector.size(self._rule),),
                                        np.float32)}
    try:
      saved = agent_file.load(self._path, like)
    except agent_file.AgentFileError as error:
      logging.warning('atari_evaluator: %s', error)
      return None
    if (saved is None or saved.info['identity'] != self._identity()
        or saved.info['game'] not in self._config.games):
      return None
    return Task(saved.info['meta_step'], saved.info['game'],
                saved.state['eta'])

  def _load(self, task: Task, learner: learner_lib.Learner):
    """(Snapshot, what its record saved) of this task's agent, or Nones."""
    found = self.interrupted()
    if found is None or found[:2] != task[:2]:
      return None, None
    like = {'agent': jax.eval_shape(learner.init, jax.random.PRNGKey(0))}
    try:
      saved = agent_file.load(self._path, like)
    except agent_file.AgentFileError as error:
      logging.warning('atari_evaluator: %s', error)
      return None, None
    record = saved.info['record']
    return host_loop.Snapshot(saved.state['agent'],
                              record['env_steps']), record

  def _save(self, task: Task, state: learner_lib.AgentState,
            record: atari_record.Record) -> None:
    os.makedirs(os.path.dirname(self._path), exist_ok=True)
    agent_file.save(self._path, {'agent': state, 'eta': task.eta},
                    identity=self._identity(), meta_step=task.meta_step,
                    game=task.game, record=record.save())

  def forget(self) -> None:
    """Of the saved agent."""
    with contextlib.suppress(FileNotFoundError):
      os.remove(self._path)

  def run(self, task: Task, stop: threading.Event,
          tell: Callable[[Mapping[str, Any]], None],
          write: Callable[[Mapping[str, Any]], None]) -> bool:
    """Trains an agent to its end; False if `stop` came before.

    Args:
      task: what to do; goes on with its agent if that was saved.
      stop: ends it, with the agent saved.
      tell: hears of the status, often.
      write: takes rows, now and then, and the last one.
    """
    eta = jax.device_put(rule_vector.unravel(self._rule, task.eta))
    environments = self._make_environments(self._config, task.game,
                                           self._pace.num_threads)
    try:
      return self._train(task, eta, environments, stop, tell, write)
    finally:
      for environment in environments:
        environment.close()

  def _train(self, task, eta, environments, stop, tell, write) -> bool:
    first = environments[0]
    seed = evaluation_seed(self._seed, task.meta_step)
    learner = self._make_learner(first)
    snapshot, saved = self._load(task, learner)
    record = atari_record.Record(task.game, self._config.preset, seed,
                                 first.frames_per_step, saved)
    training = host_loop.train(
        environments, learner, self._settings, eta, seed,
        math.ceil(self._config.frames / first.frames_per_step), snapshot)
    saved_at = time.monotonic()
    self._pace.begin()
    with contextlib.closing(training):
      for progress in training:
        record.add(progress)
        if stop.is_set():
          training.close()
          self._save(task, progress.state, record)
          return False
        if record.diverged:
          break
        if progress.metrics is None:
          tell({**record.status(),
                'frames': progress.env_steps * first.frames_per_step})
          continue
        tell(record.status())
        if record.seconds_since_row() >= _PROGRESS_PERIOD_S:
          write(record.row('progress'))
        if time.monotonic() - saved_at >= _SAVE_PERIOD_S:
          self._save(task, progress.state, record)
          saved_at = time.monotonic()
        self._pace.rest(stop)
    self.forget()
    write(record.row('diverged' if record.diverged else 'end'))
    return True
