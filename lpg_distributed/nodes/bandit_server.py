"""The node that holds p(alpha|E) of every environment, Eq. (6)."""

import threading
from typing import Any, Mapping, Sequence

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import bandit

# How long a bandit waits at the end for a learner that may be gone.
_LINGER_S = 45.
# Reports from outside within one meta-step, and names of those before.
_MOST_WAITING, _MOST_REMEMBERED = 1000, 10_000


class BanditServer:
  """Answers with distributions, takes final returns; safe to call at once.

  All arguments and results are plain numbers, strings, lists and dicts.
  Reports come as whole meta-steps, so that a call that was retried does no
  harm: a step that was applied already is ignored. Each answer names the
  learner's epoch that it belongs to: 0 for a server that was just started and
  that the learner has not told the state yet.
  """

  def __init__(self, config: config_lib.Config,
               state: Mapping[str, Any] | None = None,
               stop: threading.Event | None = None):
    """Starts afresh, or from what `get_state` gave; see `run` for `stop`."""
    self._config = config
    self._stop = stop or threading.Event()
    self._released = threading.Event()
    self._lock = threading.Lock()
    self._epoch = 0
    self._meta_step = 0
    self._bandits = self._begin()
    # Reports from outside by their names, and the names of those that are part
    # of `_bandits`; the newest last.
    self._outside: dict[str, tuple[str, int, float]] = {}
    self._applied: dict[str, None] = {}
    if state is not None:
      self._set_state(state)

  def _begin(self) -> dict[str, bandit.BanditState]:
    return {name: bandit.init(len(self._config.agents[name].arms),
                              self._config.bandit)
            for name in self._config.environments}

  def _bandit(self, environment: str) -> bandit.BanditState:
    if environment not in self._bandits:
      raise ValueError(f'no bandit for {environment!r}; allowed: '
                       f'{", ".join(self._bandits)}')
    return self._bandits[environment]

  def get_epoch(self) -> int:
    """The learner's epoch that the state is of; 0: of none."""
    return self._epoch

  def restore(self, epoch: int, state: Mapping[str, Any] | None) -> bool:
    """Takes over what `get_state` gave, or for None begins anew.

    Returns:
      False if the state is of that epoch already; nothing is changed then.
    """
    with self._lock:
      if epoch == self._epoch:
        return False
      self._epoch, self._meta_step = 0, 0
      self._bandits, self._applied = self._begin(), {}
      if state is not None:
        self._set_state(state)
      self._epoch = epoch
      return True

  def get_log_probabilities(self, environment: str) -> dict[str, Any]:
    """log p(alpha|E) over the arms; and the epoch and meta-step it is of."""
    with self._lock:
      log_probs = bandit.log_probabilities(
          self._bandit(environment), self._config.bandit)
      return {'epoch': self._epoch, 'meta_step': self._meta_step,
              'log_probabilities': log_probs.tolist()}

  def end_step(self, meta_step: int, reports: Sequence[Sequence[Any]],
               epoch: int = 0) -> bool:
    """Applies the final returns of one meta-step.

    Args:
      meta_step: the step that they belong to.
      reports: `FinalReturn`s, in the order of (shard, slot).
      epoch: the learner's.

    Returns:
      False if this step was applied before, or the state is of another epoch;
      nothing is changed then.

    Raises:
      ValueError: an unknown environment or arm, a return that is not finite,
        or a meta-step that is no number; nothing is applied then.
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
      self._apply_outside()
      self._meta_step = meta_step + 1
      return True

  def report_outside(self, name: str, environment: str, arm: int,
                     value: float) -> bool:
    """Takes a final return from outside of the run.

    It becomes part of the distribution at the end of the meta-step, behind
    the run's own. It is kept when the learner goes back to a checkpoint; it is
    lost if this server is killed before that end, so whoever is not sure
    reports it again.

    Args:
      name: of the report; one that is known already is not counted again.
      environment: one of the run's.
      arm: row of the environment's grid.
      value: the final return.

    Returns:
      False if the report is known.

    Raises:
      ValueError: an unknown environment or arm, a value that is not finite, or
        too many reports for one meta-step.
    """
    with self._lock:
      if name in self._outside or name in self._applied:
        return False
      bandit.report(self._bandit(environment), arm, value)  # Or it raises.
      if len(self._outside.keys() - self._applied.keys()) >= _MOST_WAITING:
        raise ValueError('too many reports wait for the end of the meta-step;'
                         f' allowed: {_MOST_WAITING}')
      self._outside[name] = environment, arm, float(value)
      return True

  def _apply_outside(self) -> None:
    for name, (environment, arm, value) in self._outside.items():
      if name not in self._applied:
        self._bandits[environment] = bandit.report(
            self._bandits[environment], arm, value)
        self._applied[name] = None
    for names in (self._outside, self._applied):
      while len(names) > _MOST_REMEMBERED:
        del names[next(iter(names))]

  def get_statistics(self, environment: str = '') -> dict[str, Any]:
    """Per environment (all, if none is named) and arm, what is known."""
    names = [environment] if environment else list(self._bandits)
    with self._lock:
      return {'epoch': self._epoch, 'meta_step': self._meta_step,
              'environments': {name: self._statistics(name) for name in names}}

  def _statistics(self, name: str) -> list[dict[str, float]]:
    state = self._bandit(name)
    probabilities = np.exp(bandit.log_probabilities(
        state, self._config.bandit))
    rows = zip(self._config.agents[name].arms, bandit.mean_returns(state),
               state.counts, probabilities)
    return [{'alpha_lr': arm[0], 'alpha_y': arm[1], 'mean_return': float(mean),
             'lifetimes': int(count), 'probability': float(probability)}
            for arm, mean, count, probability in rows]

  def get_state(self) -> dict[str, Any]:
    """All that a restart needs, as JSON."""
    with self._lock:
      return {'epoch': self._epoch, 'meta_step': self._meta_step, 'bandits': {
          name: {'counts': state.counts.tolist(),
                 'window': state.window.tolist()}
          for name, state in self._bandits.items()},
              'outside': list(self._applied)}

  def release(self) -> None:
    """Says that the learner has its last checkpoint; see `run`."""
    self._released.set()

  def run(self) -> None:
    """Serves until `stop`, and then until the learner needs no more."""
    self._stop.wait()
    self._released.wait(_LINGER_S)

  def _set_state(self, state: Mapping[str, Any]) -> None:
    self._meta_step = int(state['meta_step'])
    self._applied = dict.fromkeys(map(str, state.get('outside', ())))
    missing = self._bandits.keys() - state['bandits'].keys()
    if missing:
      raise ValueError('the saved bandits have none for '
                       f'{", ".join(sorted(missing))}')
    for name, saved in state['bandits'].items():
      current = self._bandit(name)
      restored = bandit.BanditState(
          np.asarray(saved['counts'], np.int64),
          np.asarray(saved['window'], np.float64))
      if (restored.counts.shape != current.counts.shape
          or restored.window.shape != current.window.shape):
        raise ValueError(f'the saved bandit of {name} has '
                         f'{restored.window.shape} arms and lifetimes; here: '
                         f'{current.window.shape}')
      bandit.check(restored)
      self._bandits[name] = restored
