"""Calls to other nodes that cannot hang: the one place that knows Courier.

Courier never answers a call with a NumPy array or scalar among its arguments,
waits forever by default, and repeats a call that was in flight while its
server went away. Its time limits come late after the system's clock was set
back, by as much as it was: the thread that minds them waits for a time of day.
Hence: arguments are checked, every call has a time limit here too, and what is
called through here must bear being called twice.
"""

import concurrent.futures
import threading
import time
from typing import Any

from absl import logging

_PLAIN = (type(None), bool, int, float, str, bytes)
_TRANSIENT = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED')

# For `lp.CourierNode(courier_client_kwargs=...)`: one attempt's time limit.
ATTEMPT_S = 30.
_TICK_S = 0.5  # between two looks whether the program stops
_LATE_S = 2.  # what Courier's own limit gets before the one here
CLIENT_KWARGS = {'call_timeout': ATTEMPT_S}


class RpcError(RuntimeError):
  """A node did not answer in time, or answered with an error."""


class Stopped(RuntimeError):
  """The program is stopping, so that no answer is to be expected."""


def check_argument(value: Any) -> None:
  """Raises TypeError for what would make Courier hang, at any depth."""
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

  An attempt that fails because the node is away is repeated until `patience_s`
  is over or the program stops; an error that the method itself raised is not.
  """

  def __init__(self, client: Any, name: str, stop: threading.Event,
               patience_s: float = 300., attempt_s: float = ATTEMPT_S):
    """Wraps a `courier.Client` to the node called `name`.

    Args:
      client: its `call_timeout` is `attempt_s`.
      name: for messages.
      stop: set when the program stops.
      patience_s: how long attempts are repeated.
      attempt_s: time limit of one.
    """
    self._client = client
    self._name = name
    self._stop = stop
    self._patience_s = patience_s
    self._limit_s = attempt_s + _LATE_S
    self._heard = False  # Whether it has ever answered.
    self.num_retries = 0

  def _wait(self, answer: Any) -> Any:
    """The result of a call, or whatever it raises.

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
          if not self._heard and not self._stop.is_set():
            logging.warning('%s has not answered yet: %s', self._name,
                            code or 'no answer in time')
          if self._stop.is_set():
            raise Stopped(f'{self._name} is away') from error
          if time.monotonic() > deadline:
            raise RpcError(f'{self._name} did not answer {method} within '
                           f'{self._patience_s:.0f} s') from error
          self.num_retries += 1
          self._stop.wait(0.2)

    return call
