"""The learner's copy of the bandit's state, for a server that restarts."""

import threading
from typing import Any, Callable, Mapping, Optional

from absl import logging

from lpg_distributed.nodes import rpc

_PERIOD_S = 1.  # between two checks of the server's epoch


class BanditLink:
  """The bandit's state at the learner's epoch and meta-step.

  The copy is taken at the end of each meta-step. A server that was restarted,
  or that is in an earlier epoch, is restored from it.
  """

  def __init__(self, bandit: Any):
    """Links to a `BanditServer` or an `rpc.Client` of one."""
    self._bandit = bandit
    self.epoch = 0
    self.state: Optional[Mapping[str, Any]] = None  # None: no returns yet

  def begin(self, epoch: int, state: Optional[Mapping[str, Any]]) -> None:
    """Begins an epoch with a state; `watch` restores the server to it."""
    self.epoch, self.state = epoch, state

  def end_step(self, meta_step: int, reports: list[list[Any]]
               ) -> Mapping[str, Any]:
    """Ends a meta-step on the server, after restoring it if necessary.

    Args:
      meta_step: the meta-step that ends.
      reports: fields of `types.FinalReturn`s.

    Returns:
      The server's state after it.
    """
    while True:
      self._bandit.end_step(meta_step, reports, self.epoch)
      state = self._bandit.get_state()
      if (state['epoch'], state['meta_step']) == (self.epoch, meta_step + 1):
        return {name: value for name, value in state.items()
                if name != 'epoch'}
      self._bandit.restore(self.epoch, self.state)

  def watch(self, lock: threading.Lock, ended: Callable[[float], bool]) -> None:
    """Restores the server whenever it is in another epoch.

    Args:
      lock: guards the epoch and the state.
      ended: waits for some seconds; returns whether to stop.
    """
    while not ended(0.):
      try:
        if self._bandit.get_epoch() != self.epoch:
          with lock:
            self._bandit.restore(self.epoch, self.state)
      except (rpc.RpcError, rpc.Stopped) as error:
        logging.warning('the bandit server is away: %s', error)
      if ended(_PERIOD_S):
        break

  def release(self) -> None:
    self._bandit.release()
