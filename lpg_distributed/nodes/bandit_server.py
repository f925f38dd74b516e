"""The node that holds p(alpha|E) of every environment, Eq. (6)."""

import threading
from typing import Any, Mapping, Sequence

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import bandit

# How long a bandit waits at the end for a learner that may be gone.
_LINGER_S = 45.


class BanditServer:
  """Answers with distributions, takes final returns; safe to call at once.

  All arguments and results are plain numbers, strings, lists and dicts.
  Reports come as whole meta-steps, so that a call that was retried does no
  harm: a step that was applied already is ignored.
  """

  def __init__(self, config: config_lib.Config,
               state: Mapping[str, Any] | None = None,
               stop: threading.Event | None = None):
    """Starts afresh, or from what `get_state` gave; see `run` for `stop`."""
    self._config = config
    self._stop = stop or threading.Event()
    self._released = threading.Event()
    self._lock = threading.Lock()
    self._meta_step = 0
    self._bandits = {
        name: bandit.init(len(config.agents[name].arms), config.bandit)
        for name in config.environments}
    if state is not None:
      self._set_state(state)

  def _bandit(self, environment: str) -> bandit.BanditState:
    if environment not in self._bandits:
      raise ValueError(f'no bandit for {environment!r}; allowed: '
                       f'{", ".join(self._bandits)}')
    return self._bandits[environment]

  def get_log_probabilities(self, environment: str) -> dict[str, Any]:
    """log p(alpha|E) over the arms, and the meta-step that it belongs to."""
    with self._lock:
      log_probs = bandit.log_probabilities(
          self._bandit(environment), self._config.bandit)
      return {'meta_step': self._meta_step,
              'log_probabilities': log_probs.tolist()}

  def end_step(self, meta_step: int,
               reports: Sequence[Sequence[Any]]) -> bool:
    """Applies the final returns of one meta-step.

    Args:
      meta_step: the step that they belong to.
      reports: `FinalReturn`s, in the order of (shard, slot).

    Returns:
      False if this step was applied before; nothing is changed then.

    Raises:
      ValueError: an unknown environment or arm, or a return that is not
        finite; nothing is applied then.
    """
    with self._lock:
      if meta_step < self._meta_step:
        return False
      changed = {}
      for report in (types.FinalReturn(*r) for r in reports):
        state = changed.get(report.environment,
                            self._bandit(report.environment))
        changed[report.environment] = bandit.report(
            state, report.arm, report.value)
      self._bandits.update(changed)
      self._meta_step = meta_step + 1
      return True

  def get_statistics(self, environment: str = '') -> dict[str, Any]:
    """Per environment (all, if none is named) and arm, what is known."""
    names = [environment] if environment else list(self._bandits)
    with self._lock:
      return {'meta_step': self._meta_step, 'environments': {
          name: self._statistics(name) for name in names}}

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
      return {'meta_step': self._meta_step, 'bandits': {
          name: {'counts': state.counts.tolist(),
                 'window': state.window.tolist()}
          for name, state in self._bandits.items()}}

  def release(self) -> None:
    """Says that the learner has its last checkpoint; see `run`."""
    self._released.set()

  def run(self) -> None:
    """Serves until `stop`, and then until the learner needs no more."""
    self._stop.wait()
    self._released.wait(_LINGER_S)

  def _set_state(self, state: Mapping[str, Any]) -> None:
    self._meta_step = int(state['meta_step'])
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
      self._bandits[name] = restored
