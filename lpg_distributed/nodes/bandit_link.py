"""What the learner keeps of the bandit, so that its server may begin anew."""

import threading
from typing import Any, Callable, Mapping, Optional

from absl import logging

from lpg_distributed.nodes import rpc

_PERIOD_S = 1.  # how often the server is asked whether it is the same


class BanditLink:
  """The bandit's state at the learner's epoch and meta-step.

  The server holds nothing that is not here too, a meta-step later. One that
  was started again, or is of an epoch that is over, is told what it has to
  know.
  """

  def __init__(self, bandit: Any):
    """`bandit`: a `BanditServer` or a client of one."""
    self._bandit = bandit
    self.epoch = 0
    self.state: Optional[Mapping[str, Any]] = None  # None: at the beginning

  def begin(self, epoch: int, state: Optional[Mapping[str, Any]]) -> None:
    """Another epoch; the server hears of it by `tend`."""
    self.epoch, self.state = epoch, state

  def end_step(self, meta_step: int, reports: list[list[Any]]
               ) -> Mapping[str, Any]:
    """Ends the server's step, whichever server it is; returns its state."""
    while True:
      self._bandit.end_step(meta_step, reports, self.epoch)
      state = self._bandit.get_state()
      if (state['epoch'], state['meta_step']) == (self.epoch, meta_step + 1):
        return {name: value for name, value in state.items()
                if name != 'epoch'}
      self._bandit.restore(self.epoch, self.state)

  def tend(self, lock: threading.Lock, ended: Callable[[float], bool]) -> None:
    """Looks after the server until `ended`, which waits for some seconds."""
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
