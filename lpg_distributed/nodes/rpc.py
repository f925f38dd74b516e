"""Calls to other nodes that cannot hang; the only user of Courier.

Courier has four traps:

- It never answers a call that has a NumPy value among its arguments. Arguments
  are checked here.
- It waits for ever by default. Each call has a time limit.
- It measures its time limits by the system's clock, so a clock that is set back
  delays them. Each call has a second limit here.
- It repeats a call whose server went away. Remote methods must allow repeated
  calls.
"""

import concurrent.futures
import threading
import time
from typing import Any

from absl import logging

_PLAIN = (type(None), bool, int, float, str, bytes)
_TRANSIENT = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED')

# Time limit of one attempt, for `lp.CourierNode(courier_client_kwargs=...)`.
ATTEMPT_S = 30.
_TICK_S = 0.5  # seconds between two checks whether the program stops
_LATE_S = 2.  # seconds by which the limit here exceeds Courier's
CLIENT_KWARGS = {'call_timeout': ATTEMPT_S}


class RpcError(RuntimeError):
  """A node did not answer in time, or answered with an error."""


class Stopped(RuntimeError):
  """The program is stopping, and the node does not answer."""


def check_argument(value: Any) -> None:
  """Raises TypeError for arguments that make Courier hang, at any depth."""
  if type(value) in _PLAIN:  # Not isinstance: np.float64 is a float.
    return
  if type(value) in (list, tuple):
    for item in value:
      check_argument(item)
    return
  if type(value) is dict:
    for key, item in value.items():
      check_argument(key)
      check_argument(item)
    return
  raise TypeError(
      f'an RPC argument is a {type(value).__name__}; allowed: numbers, '
      'strings, bytes, and lists, tuples and dicts of them')


class Client:
  """Forwards method calls to another node.

  If the node does not answer, the call is repeated for `patience_s` or until
  the program stops. An error of the remote method is raised at once.

  Methods raise:
    RpcError: the node did not answer in time, or raised an error.
    Stopped: the program stops, and the node does not answer.
    TypeError: see `check_argument`.
  """

  def __init__(self, client: Any, name: str, stop: threading.Event,
               patience_s: float = 300., attempt_s: float = ATTEMPT_S):
    """Wraps a `courier.Client` to the node called `name`.

    Args:
      client: a client with `call_timeout=attempt_s`.
      name: name of the node, for messages.
      stop: set when the program stops.
      patience_s: time for all attempts.
      attempt_s: time for one attempt.
    """
    self._client = client
    self._name = name
    self._stop = stop
    self._patience_s = patience_s
    self._limit_s = attempt_s + _LATE_S
    self._heard = False  # Whether it has ever answered.
    self.num_retries = 0

  def _wait(self, answer: Any) -> Any:
    """Returns the result of a call, or raises its error.

    A node that was never heard is perhaps out of reach. It is not waited for
    once the program stops, so that this node can end in time.
    """
    deadline = time.monotonic() + self._limit_s
    while True:
      left_s = deadline - time.monotonic()
      try:
        return answer.result(max(0., min(_TICK_S, left_s)))
      except concurrent.futures.TimeoutError:
        if self._stop.is_set() and not self._heard:
          deadline = min(deadline, time.monotonic() + _LATE_S)
        if left_s <= _TICK_S:
          raise

  def __getattr__(self, method: str):
    remote = getattr(self._client.futures, method)

    def call(*args, **kwargs):
      check_argument(args)
      check_argument(kwargs)
      deadline = time.monotonic() + self._patience_s
      while True:
        answer = remote(*args, **kwargs)
        try:
          result = self._wait(answer)
          self._heard = True
          return result
        except Exception as error:  # pybind11_abseil.status.StatusNotOk
          late = isinstance(error, concurrent.futures.TimeoutError)
          answer.cancel()
          code = getattr(getattr(error, 'code', None), 'name', '')
          if code not in _TRANSIENT and not late:
            self._heard = True
            raise RpcError(f'{self._name}.{method}: {error}') from error
          if self._stop.is_set():
            raise Stopped(f'{self._name} is away') from error
          if time.monotonic() > deadline:
            raise RpcError(f'{self._name} did not answer {method} within '
                           f'{self._patience_s:.0f} s') from error
          if not self._heard:  # Else the node is only being started again.
            logging.warning('%s has not answered yet: %s', self._name,
                            code or 'no answer in time')
          self.num_retries += 1
          self._stop.wait(0.2)

    return call
