"""Trains one agent by one eta on one game, with a share of the machine.

The agent and its eta are saved periodically in the run's `evaluator/agent.npz`,
so that a restarted node goes on with them.
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
from lpg_distributed import former_names
from lpg_distributed import processors
from lpg_distributed.core import atari_network
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import host
from lpg_distributed.meta_testing import host_loop
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib
from lpg_distributed.nodes import atari_record
from lpg_distributed.store import agent_file

_PROGRESS_PERIOD_S = 5.
_SAVE_PERIOD_S = 60.


class EvaluationTask(NamedTuple):
  """A rule and the game to evaluate it on."""
  meta_step: int
  game: str
  eta: np.ndarray  # [P]


class Pace:
  """Limits work to a share of the machine, by few threads and by pauses."""

  def __init__(self, share: float, num_cores: int):
    """`share`: of all cores, above 0 and at most 1."""
    self.num_threads = max(1, int(share * num_cores))
    self._duty = min(1., share * num_cores / self.num_threads)
    self._begin = time.monotonic()

  def begin(self) -> None:
    self._begin = time.monotonic()

  def rest(self, stop: threading.Event) -> None:
    """Pauses; all threads have worked since the last pause or `begin`."""
    worked = time.monotonic() - self._begin
    if self._duty < 1.:
      stop.wait(worked * (1. / self._duty - 1.))
    self.begin()


def evaluation_seed(seed: int, meta_step: int) -> int:
  """Seed of an evaluation: a function of the run's seed and the meta-step."""
  sequence = np.random.SeedSequence([seed, meta_step])
  return int(sequence.generate_state(1)[0] >> 1)


def _is_whole(info: Mapping[str, Any]) -> bool:
  """Whether a saved agent has all fields that `Evaluations` has written."""
  record = info.get('record')
  return (type(info.get('meta_step')) is int
          and isinstance(info.get('identity'), dict)
          and isinstance(info.get('game'), str) and isinstance(record, dict)
          and type(record.get('env_steps')) is int)


class Evaluations:
  """Trains one agent at a time, and saves it periodically."""

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
    self._settings = settings_lib.AgentSettings(
        learning_rate=config.learning_rate, kl_cost=config.kl_cost,
        gamma=config.gamma, trajectory_steps=config.trajectory_steps,
        use_baseline=config.use_baseline)
    self._learners: dict[Any, learner_lib.Learner] = {}
    self._pace = Pace(config.share, processors.count())

  def _make_learner(self, environment: host.HostEnvironment
                    ) -> learner_lib.Learner:
    """Makes a learner; games with equally many actions share one."""
    spec = environment.observation_spec()
    num_actions = int(environment.action_spec().num_values)
    key = num_actions, tuple(spec.shape)
    if key not in self._learners:
      self._learners[key] = learner_lib.make_learner(
          lambda outputs: atari_network.make_network(spec, outputs),
          num_actions, self._settings,
          registry.make_learned(self._rule))
    return self._learners[key]

  def _identity(self) -> dict[str, Any]:
    """Settings in which a saved agent must agree with this run."""
    names = ('preset', 'num_envs', 'trajectory_steps', 'learning_rate',
             'kl_cost', 'gamma', 'use_baseline')
    return {**{name: getattr(self._config, name) for name in names},
            'run_seed': self._seed}

  def interrupted(self) -> Optional[EvaluationTask]:
    """Task of the saved agent; None if no agent can be used."""
    like = {'eta': jax.ShapeDtypeStruct((rule_vector.size(self._rule),),
                                        np.float32)}
    try:
      saved = agent_file.load(self._path, like)
    except agent_file.AgentFileError as error:
      logging.warning('atari_evaluator: %s', error)
      return None
    if saved is None or not _is_whole(saved.info) or (
        former_names.replace(saved.info['identity']) != self._identity()
        or saved.info['game'] not in self._config.games):
      return None
    return EvaluationTask(saved.info['meta_step'], saved.info['game'],
                          saved.state['eta'])

  def _load(self, task: EvaluationTask, learner: learner_lib.Learner):
    """Snapshot and record of the saved agent, if it is of this task."""
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

  def _save(self, task: EvaluationTask, state: learner_lib.AgentState,
            record: atari_record.Record) -> None:
    os.makedirs(os.path.dirname(self._path), exist_ok=True)
    agent_file.save(self._path, {'agent': state, 'eta': task.eta},
                    identity=self._identity(), meta_step=task.meta_step,
                    game=task.game, record=record.save())

  def forget(self) -> None:
    """Removes the saved agent."""
    with contextlib.suppress(FileNotFoundError):
      os.remove(self._path)

  def run(self, task: EvaluationTask, stop: threading.Event,
          tell: Callable[[Mapping[str, Any]], None],
          write: Callable[[Mapping[str, Any]], None]) -> bool:
    """Trains an agent for `config.frames`, or until it diverges.

    Args:
      task: rule and game. A saved agent of this task goes on.
      stop: ends training; the agent is saved.
      tell: called with the status at each step.
      write: called with a row every 5 s, and with the last one.

    Returns:
      False if `stop` ended training.
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
