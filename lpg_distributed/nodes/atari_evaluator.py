"""The node that evaluates eta on Atari games during meta-training.

It takes a snapshot of eta, trains an agent from scratch on each configured
game, and logs to `metrics/evaluator.jsonl`. Then it takes a later snapshot. The
run does not depend on it. A game that fails is tried again after longer and
longer pauses; the others continue. Without the emulator's package nothing is
evaluated, and one warning says so.
"""

import threading
import time
from typing import Any, Callable, Optional, Sequence

from absl import logging
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.envs import atari
from lpg_distributed.envs import host
from lpg_distributed.nodes import atari_evaluation
from lpg_distributed.store import loggers

# Between two requests for a new eta.
_ETA_PERIOD_S = 1.
# Pauses after failures double between these.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1., 300.
# Wait of `run` for a step that cannot be interrupted.
_LEAVE_S = 0.8


def load_game(config: config_lib.EvaluatorConfig, game: str,
              num_threads: int) -> Sequence[host.HostEnvironment]:
  """Makes the environments of a game, for `num_threads` threads."""
  return atari.make_groups(game, config.num_envs, num_threads, config.preset)


class _Failures:
  """Failures in a row, of one game or of requests for eta."""

  def __init__(self):
    self.count, self.not_before = 0, 0.

  def add(self) -> float:
    """Counts one; returns the pause in seconds before the next attempt."""
    self.count += 1
    pause_s = min(_FIRST_PAUSE_S * 2. ** min(self.count - 1, 20),
                  _LONGEST_PAUSE_S)
    self.not_before = time.monotonic() + pause_s
    return pause_s

  def wait_s(self) -> float:
    return max(0., self.not_before - time.monotonic())


class AtariEvaluator:
  """Trains one agent after another until `stop` is set."""

  def __init__(
      self,
      config: config_lib.EvaluatorConfig,
      rule: config_lib.RuleConfig,
      get_eta: Callable[[], Optional[tuple[int, np.ndarray]]],
      run_dir: str,
      stop: threading.Event,
      seed: int,
      on_closed: Callable[[], None] = lambda: None,
      make_environments: Callable[
          ..., Sequence[host.HostEnvironment]] = load_game,
  ):
    """Makes an evaluator; `run` works.

    Args:
      config: games, and the agent's settings.
      rule: determines the size P of eta.
      get_eta: returns the newest meta-step and eta [P]; None: not available.
      run_dir: receives the metrics and the saved agent.
      stop: set by others when the program ends.
      seed: seed of the run; each evaluation derives its own.
      on_closed: called when `run` ends. Something may still be compiling; the
        process may exit then.
      make_environments: makes a batch of environments from `config`, a game
        and a number of threads.
    """
    self._config = config
    self._get_eta = get_eta
    self._run_dir = run_dir
    self._stop = stop
    self._on_closed = on_closed
    self._evaluations = atari_evaluation.Evaluations(
        config, rule, run_dir, seed, make_environments)
    self._tasks: list[atari_evaluation.EvaluationTask] = []  # of one snapshot
    self._failures = {name: _Failures() for name in ('', *config.games)}
    self._last_step: Optional[int] = None
    self._done: set[tuple[int, str]] = set()
    self._logger: Optional[loggers.MetricsLogger] = None
    self._status = {'state': 'starting', 'game': config.games[0],
                    'meta_step': -1, 'frames': 0, 'frames_per_s': 0.,
                    'return': None}

  def get_status(self) -> dict[str, Any]:
    """Returns state, game, meta-step, frames, speed and return."""
    return dict(self._status)

  def run(self) -> None:
    """Works until `stop`; returns within a second after it."""
    # Use another thread, because a compilation cannot be interrupted.
    worker = threading.Thread(target=self._work, daemon=True,
                              name='atari_evaluator')
    worker.start()
    while worker.is_alive() and not self._stop.wait(0.2):
      pass
    self._stop.wait()
    worker.join(_LEAVE_S)
    self._on_closed()

  def _work(self) -> None:
    self._done = {(row['step'], row.get('game'))
                  for row in loggers.read_metrics(self._run_dir, 'evaluator')
                  if row.get('event') in ('end', 'diverged')}
    self._logger = loggers.MetricsLogger(self._run_dir, 'evaluator')
    try:
      self._go_on()
      while not self._stop.is_set():
        self._take_snapshot()
        self._do_next()
    except ImportError as error:
      # A package that is missing stays missing while this process runs.
      self._report_failure(self._last_step, self._status['game'], error,
                           retry=False)
    finally:
      self._logger.close()

  def _begin_round(self, step: int, eta: np.ndarray) -> None:
    """Lists the games that are not done with this eta."""
    self._last_step = step
    self._tasks = [atari_evaluation.EvaluationTask(step, game, eta)
                   for game in self._config.games
                   if (step, game) not in self._done]

  def _go_on(self) -> None:
    """Puts the interrupted agent, if any, first."""
    task = self._evaluations.interrupted()
    if task is None or (task.meta_step, task.game) in self._done:
      return
    self._begin_round(task.meta_step, task.eta)
    self._tasks.sort(key=lambda other: other.game != task.game)

  def _take_snapshot(self) -> None:
    """Takes a new eta if one is due, and only failing games are left."""
    if (any(not self._failures[t.game].count for t in self._tasks)
        or self._failures[''].wait_s()):
      return
    try:
      snapshot = self._get_eta()
      if snapshot is None:
        return
      step, eta = int(snapshot[0]), np.asarray(snapshot[1], np.float32)
      if self._last_step is None or (
          step >= self._last_step + max(1, self._config.period_meta_steps)):
        self._begin_round(step, eta)
    except Exception as error:  # pylint: disable=broad-except
      self._report_failure(-1, '', error)

  def _do_next(self) -> None:
    """Trains on one game, or pauses if there is nothing to do."""
    self._tasks.sort(key=lambda t: self._failures[t.game].wait_s())
    if not self._tasks or self._failures[self._tasks[0].game].wait_s():
      if not self._tasks:
        self._status['state'] = 'waiting'
      waits = [self._failures[t.game].wait_s() for t in self._tasks[:1]]
      self._stop.wait(min([_ETA_PERIOD_S, *waits]))
      return
    task = self._tasks[0]
    self._status.update({'state': 'compiling', 'game': task.game,
                         'meta_step': task.meta_step, 'frames': 0,
                         'frames_per_s': 0., 'return': None})
    try:
      ended = self._evaluations.run(
          task, self._stop,
          lambda status: self._status.update(state='training', **status),
          lambda row: self._logger.write(task.meta_step, row))
    except ImportError:
      raise
    except Exception as error:  # pylint: disable=broad-except
      if not self._stop.is_set():
        self._report_failure(task.meta_step, task.game, error)
      return
    if ended:
      self._tasks.remove(task)
      self._failures[task.game].count = 0
      self._done.add((task.meta_step, task.game))
      self._status['state'] = 'waiting'
      self._stop.wait(self._config.pause_s)

  def _report_failure(self, step: int, game: str, error: Exception,
                      retry: bool = True) -> None:
    lines = str(error).splitlines() or ['']
    message = f'{type(error).__name__}: {lines[0]}'
    failures = self._failures[game]
    pause_s = failures.add()
    logging.warning(
        'atari_evaluator: %s %s; %s', game, message,
        f'attempt {failures.count}, next in {pause_s:.0f} s' if retry else
        'training continues without evaluation on Atari')
    self._status['state'] = f'failed: {message}'
    self._logger.write(step, {
        'event': 'error', 'game': game, 'preset': self._config.preset,
        'error': message, 'attempt': failures.count,
        'retry_in_s': pause_s if retry else None})
