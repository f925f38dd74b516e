"""The node that tries eta on an Atari game while it is trained.

It takes a snapshot of eta, lets an agent learn a game by it from scratch, says
how that goes in `metrics/evaluator.jsonl`, and starts over with the next
snapshot. Nothing waits for it and it changes nothing of the run.
"""

import collections
import math
import threading
import time
from typing import Any, Callable, Optional

from absl import logging
import jax
import numpy as np

from envs import atari
from envs import host
from lpg_distributed import config as config_lib
from lpg_distributed.core import atari_network
from lpg_distributed.core import meta_test
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import loggers

# Episodes in the mean of a row's return, the latest ones.
_RETURN_WINDOW = 100
_PROGRESS_PERIOD_S = 5.
# Between two looks for a new eta.
_ETA_PERIOD_S = 1.
# Pauses after failures double between these.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1., 300.
# How long `run` waits for a step that cannot be interrupted.
_LEAVE_S = 0.8


def load_game(config: config_lib.EvaluatorConfig) -> host.HostEnvironment:
  """The configured game, its emulators in one thread."""
  return atari.AtariEnvironment(config.game, config.num_envs, config.preset)


class AtariEvaluator:
  """Trains agent after agent until `stop` is set."""

  def __init__(
      self,
      config: config_lib.EvaluatorConfig,
      rule: config_lib.RuleConfig,
      get_eta: Callable[[], Optional[tuple[int, np.ndarray]]],
      run_dir: str,
      stop: threading.Event,
      seed: int,
      on_closed: Callable[[], None] = lambda: None,
      make_environment: Callable[..., host.HostEnvironment] = load_game,
  ):
    """Does no work yet.

    Args:
      config: the game and how an agent learns it.
      rule: the shape of eta.
      get_eta: the newest (meta-step, eta [P]), or None for not now.
      run_dir: where the metrics go.
      stop: set from outside when the program ends.
      seed: the run's; each evaluation derives its own from it.
      on_closed: called when `run` ends, perhaps while something is still
        being compiled; a process of its own may leave then.
      make_environment: from `config` to the environment.
    """
    self._config = config
    self._rule = rule
    self._get_eta = get_eta
    self._run_dir = run_dir
    self._stop = stop
    self._seed = seed
    self._on_closed = on_closed
    self._make_environment = make_environment
    self._settings = meta_test.Settings(
        num_predictions=rule.num_predictions,
        learning_rate=config.learning_rate, kl_cost=config.kl_cost,
        discount=config.discount, trajectory_steps=config.trajectory_steps,
        use_baseline=config.use_baseline)
    self._learner: Optional[meta_test.Learner] = None
    self._status = {'state': 'starting', 'game': config.game, 'meta_step': -1,
                    'frames': 0, 'frames_per_s': 0., 'return': None}

  def get_status(self) -> dict[str, Any]:
    """What it does now: state, game, meta-step, frames, speed and return."""
    return dict(self._status)

  def run(self) -> None:
    """Works until `stop`, and leaves within a second of it."""
    # In a thread of its own, since a compilation cannot be interrupted.
    worker = threading.Thread(target=self._work, daemon=True,
                              name='atari_evaluator')
    worker.start()
    while worker.is_alive() and not self._stop.wait(0.2):
      pass
    self._stop.wait()
    worker.join(_LEAVE_S)
    self._on_closed()

  def _work(self) -> None:
    logger = loggers.MetricsLogger(self._run_dir, 'evaluator')
    try:
      self._evaluate_until_stopped(logger)
    finally:
      logger.close()

  def _evaluate_until_stopped(self, logger: loggers.MetricsLogger) -> None:
    last_step, failures = None, 0
    while not self._stop.is_set():
      step = -1
      try:
        snapshot = self._get_eta()
        if snapshot is None or snapshot[0] == last_step:
          self._stop.wait(_ETA_PERIOD_S)
          continue
        step, eta = snapshot
        self._evaluate(int(step), np.asarray(eta), logger)
        last_step, failures = step, 0
        self._status['state'] = 'waiting'
        self._stop.wait(self._config.pause_s)
      except Exception as error:  # pylint: disable=broad-except
        if self._stop.is_set():
          return
        failures += 1
        pause_s = min(_FIRST_PAUSE_S * 2. ** min(failures - 1, 20),
                      _LONGEST_PAUSE_S)
        self._report_failure(int(step), error, failures, pause_s, logger)
        self._stop.wait(pause_s)

  def _report_failure(self, step, error, failures, pause_s, logger):
    lines = str(error).splitlines() or ['']
    message = f'{type(error).__name__}: {lines[0]}'
    logging.warning('atari_evaluator: %s; attempt %d, next in %.0f s',
                    message, failures, pause_s)
    self._status['state'] = f'failed: {message}'
    logger.write(step, {'event': 'error', 'game': self._config.game,
                        'preset': self._config.preset, 'error': message,
                        'attempt': failures, 'retry_in_s': pause_s})

  def _make_learner(self, environment) -> meta_test.Learner:
    """Compiled once; all evaluations are of the same game."""
    if self._learner is None:
      spec = environment.observation_spec()
      self._learner = meta_test.make_learner(
          lambda outputs: atari_network.make_network(spec, outputs),
          int(environment.action_spec().num_values), self._settings)
    return self._learner

  def _evaluate(self, meta_step: int, eta: np.ndarray, logger) -> None:
    """One agent's life under one eta."""
    self._status.update({'state': 'compiling', 'meta_step': meta_step,
                         'frames': 0, 'frames_per_s': 0., 'return': None})
    seed = _evaluation_seed(self._seed, meta_step)
    environment = self._make_environment(self._config)
    try:
      record = _Record(self._config, meta_step, seed)
      training = meta_test.train(
          environment, self._make_learner(environment), self._settings,
          jax.device_put(rule_vector.unravel(self._rule, eta)), seed,
          math.ceil(self._config.frames / environment.frames_per_step))
      for progress in training:
        if self._stop.is_set():
          return
        record.add(progress, environment.frames_per_step)
        self._status.update(state='training', **record.status())
        if record.diverged:
          break
        if record.seconds_since_row() >= _PROGRESS_PERIOD_S:
          logger.write(meta_step, record.row('progress'))
      logger.write(meta_step, record.row(
          'diverged' if record.diverged else 'end'))
    finally:
      environment.close()


def _evaluation_seed(seed: int, meta_step: int) -> int:
  """Differs between the evaluations of a run, is the same in a second run."""
  sequence = np.random.SeedSequence([seed, meta_step])
  return int(sequence.generate_state(1)[0] >> 1)


class _Record:
  """What is known of one evaluation."""

  def __init__(self, config: config_lib.EvaluatorConfig, meta_step: int,
               seed: int):
    self._config = config
    self._meta_step = meta_step
    self._seed = seed
    self._returns = collections.deque(maxlen=_RETURN_WINDOW)
    self._episodes = 0
    self._frames = 0
    self._updates = 0
    self._metrics = {}
    self._start = self._row_time = time.monotonic()
    self._row_frames = 0
    self._scores = atari.scores().get(config.game)

  def add(self, progress: meta_test.Progress, frames_per_step: int) -> None:
    self._frames = progress.env_steps * frames_per_step
    self._returns.extend(progress.episode_returns)
    self._episodes += len(progress.episode_returns)
    if progress.metrics is not None:
      self._updates += 1
      self._metrics = progress.metrics

  @property
  def diverged(self) -> bool:
    """Whether the agent's outputs are no longer numbers."""
    return not all(math.isfinite(x) for x in self._metrics.values())

  def seconds_since_row(self) -> float:
    return time.monotonic() - self._row_time

  def _mean_return(self) -> Optional[float]:
    return float(np.mean(self._returns)) if self._returns else None

  def status(self) -> dict[str, Any]:
    seconds = max(time.monotonic() - self._start, 1e-6)
    return {'frames': self._frames, 'return': self._mean_return(),
            'frames_per_s': self._frames / seconds}

  def row(self, event: str) -> dict[str, Any]:
    """Of a progress row the speed is that since the last row, else that of
    the whole evaluation; return is None until an episode has ended."""
    now = time.monotonic()
    frames, since = self._frames - self._row_frames, self._row_time
    if event != 'progress':
      frames, since = self._frames, self._start
    self._row_time, self._row_frames = now, self._frames
    mean_return = self._mean_return()
    row = {'event': event, 'game': self._config.game,
           'preset': self._config.preset, 'seed': self._seed,
           'frames': self._frames, 'updates': self._updates,
           'seconds': now - self._start,
           'frames_per_s': frames / max(now - since, 1e-6),
           'return': mean_return, 'episodes': self._episodes}
    if self._scores is not None:
      random, human = self._scores
      row.update(random_score=random, human_score=human,
                 human_normalised=None if mean_return is None else
                 atari.human_normalised(self._config.game, mean_return))
    return {**row, **self._metrics}
