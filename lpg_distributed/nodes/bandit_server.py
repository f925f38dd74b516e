"""The node that holds p(alpha|E) of every environment, Eq. (6)."""

import threading
from typing import Any, Mapping, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import bandit
from lpg_distributed.nodes import outside_reports
from lpg_distributed.store import saved_bandit

# Longest wait at the end of the run for the learner's last checkpoint, seconds.
_LINGER_S = 45.

class BanditServer:
  """Serves p(alpha|E) and applies final returns; safe from many threads.

  Arguments and results are plain numbers, strings, lists and dicts. Final
  returns arrive once per meta-step. Calls can be repeated safely: a meta-step
  that was already applied is ignored. Each answer contains the learner's epoch.
  A restarted server has epoch 0 until the learner calls `restore`.
  """

  def __init__(self, config: config_lib.Config,
               state: Mapping[str, Any] | None = None,
               stop: threading.Event | None = None):
    """Makes a server.

    Args:
      config: configuration of the run.
      state: result of `get_state`; None: bandits without any return.
      stop: ends `run` when set.

    Raises:
      ValueError: `state` is damaged, or has other environments or arms.
    """
    self._config = config
    self._stop = stop or threading.Event()
    self._released = threading.Event()
    self._lock = threading.Lock()
    self._epoch = 0
    self._meta_step = 0
    self._bandits = self._init_bandits()
    self._outside = outside_reports.OutsideReports()
    if state is not None:
      self._set_state(state)

  def _init_bandits(self) -> dict[str, bandit.BanditState]:
    return {name: bandit.init(len(self._config.agents[name].arms),
                              self._config.bandit)
            for name in self._config.environments}

  def _bandit(self, environment: str) -> bandit.BanditState:
    if environment not in self._bandits:
      raise ValueError(f'no bandit for {environment!r}; allowed: '
                       f'{", ".join(self._bandits)}')
    return self._bandits[environment]

  def get_epoch(self) -> int:
    """Returns the learner's epoch of the state; 0: none yet."""
    return self._epoch

  def restore(self, epoch: int, state: Mapping[str, Any] | None) -> bool:
    """Replaces the state and begins an epoch.

    Args:
      epoch: the learner's epoch, not 0.
      state: result of `get_state`; None: bandits without any return.

    Returns:
      False if the server already is in that epoch; then nothing changes.

    Raises:
      ValueError: `state` is damaged, or has other environments or arms.
    """
    with self._lock:
      if epoch == self._epoch:
        return False
      self._epoch, self._meta_step = 0, 0
      self._bandits = self._init_bandits()
      self._outside.restore({}, 0)
      if state is not None:
        self._set_state(state)
      self._epoch = epoch
      return True

  def get_log_probabilities(self, environment: str) -> dict[str, Any]:
    """Returns log p(alpha|E), one number per arm, with epoch and meta-step.

    Raises:
      ValueError: an unknown environment.
    """
    with self._lock:
      log_probs = bandit.log_probabilities(
          self._bandit(environment), self._config.bandit)
      return {'epoch': self._epoch, 'meta_step': self._meta_step,
              'log_probabilities': log_probs.tolist()}

  def end_step(self, meta_step: int, reports: Sequence[Sequence[Any]],
               epoch: int = 0) -> bool:
    """Applies the final returns of one meta-step.

    Args:
      meta_step: the meta-step of these returns.
      reports: fields of `FinalReturn`s, sorted by shard and slot.
      epoch: the learner's epoch.

    Returns:
      False if this meta-step was applied before, or the server is in another
      epoch; then nothing changes.

    Raises:
      ValueError: an unknown environment or arm, a return that is not finite,
        or a meta-step that is not a number; then nothing changes.
    """
    if isinstance(meta_step, bool) or not isinstance(meta_step, int):
      raise ValueError(f'meta_step is {meta_step!r}; allowed: whole numbers')
    with self._lock:
      if epoch != self._epoch or meta_step < self._meta_step:
        return False
      changed = {}
      for report in (types.FinalReturn(*r) for r in reports):
        state = changed.get(report.environment,
                            self._bandit(report.environment))
        changed[report.environment] = bandit.report(
            state, report.arm, report.value)
      self._bandits.update(changed)
      for report in self._outside.apply():
        self._bandits[report.environment] = bandit.report(
            self._bandits[report.environment], report.arm, report.value)
      self._meta_step = meta_step + 1
      return True

  def report_outside(self, name: str, environment: str, arm: int,
                     value: float, meta_step: int) -> str:
    """Accepts a final return from another program.

    It is applied at the end of the current meta-step, after the run's own
    returns. It is kept when the learner rolls back to a checkpoint. It is lost
    if this server dies before it is applied, so a client without confirmation
    should send it again.

    Args:
      name: name of the report. Each name is counted once.
      environment: one of the run's environments.
      arm: row of the environment's grid of hyperparameters.
      value: the final return.
      meta_step: meta-step of the distribution that the arm was drawn from.
        Names are remembered for the newest meta-steps only, and reports of
        earlier ones are refused.

    Returns:
      One of the constants of `outside_reports`.

    Raises:
      ValueError: an unknown environment or arm, or a value that is not finite.
    """
    with self._lock:
      verdict = self._outside.judge(name, meta_step, self._meta_step)
      if verdict == outside_reports.ACCEPTED:
        bandit.report(self._bandit(environment), arm, value)  # Checks them.
        self._outside.add(name, outside_reports.Report(
            environment, arm, float(value), meta_step))
      return verdict

  def get_statistics(self, environment: str = '') -> dict[str, Any]:
    """Returns each arm's hyperparameters, returns and probability.

    Args:
      environment: one of the run's environments; '' for all.

    Raises:
      ValueError: an unknown environment.
    """
    names = [environment] if environment else list(self._bandits)
    with self._lock:
      return {'epoch': self._epoch, 'meta_step': self._meta_step,
              'environments': {name: self._statistics(name) for name in names}}

  def _statistics(self, name: str) -> list[dict[str, float]]:
    return saved_bandit.statistics(self._config, name, self._bandit(name))

  def get_state(self) -> dict[str, Any]:
    """Returns the state that `restore` takes, as plain JSON."""
    with self._lock:
      bandits = {name: {'counts': state.counts.tolist(),
                        'window': state.window.tolist()}
                 for name, state in self._bandits.items()}
      return {'epoch': self._epoch, 'meta_step': self._meta_step,
              'bandits': bandits, **self._outside.get_state()}

  def release(self) -> None:
    """Lets `run` end: the learner has written its last checkpoint."""
    self._released.set()

  def run(self) -> None:
    """Returns after `stop` and then `release`, or `_LINGER_S` after `stop`."""
    self._stop.wait()
    self._released.wait(_LINGER_S)

  def _set_state(self, state: Mapping[str, Any]) -> None:
    self._meta_step = int(state['meta_step'])
    self._outside.restore(state, self._meta_step)
    self._bandits.update(saved_bandit.parse(self._config, state))
