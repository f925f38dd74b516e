"""Connections of the bandit's facade: an HTTP server on asyncio, with limits.

Limited are the time for a request, the time between two requests, unread
answers, connections, and requests per second and address. `http_requests`
limits the size of a request.
"""

import asyncio
import time
from typing import Awaitable, Callable, NamedTuple, Optional, Union

from absl import logging

from lpg_distributed.nodes import http_requests

_REQUEST_S = 10.  # for a request to arrive whole
_IDLE_S = 60.  # between two requests
# When all connections are taken, a new one replaces the one whose last request
# is longest ago, if that is at least so long.
_PROTECTED_S = 2.
_LARGEST_BUFFER = http_requests.LARGEST_HEAD + http_requests.LARGEST_BODY
_LOG_PERIOD_S = 60.  # between two logged tracebacks


class Limits(NamedTuple):
  connections: int = 256
  requests_per_s: float = 20_000.  # of one address


class Server:
  """Serves answers of a function over HTTP."""

  def __init__(
      self, handle: Callable[[http_requests.Request], http_requests.Answer],
      token: Optional[str] = None, limits: Optional[Limits] = None):
    """Makes a server; `run` serves.

    Args:
      handle: answers a request, or raises `http_requests.HttpError`.
      token: see `http_requests.RequestParser`.
      limits: see `Limits`.
    """
    self.handle = handle
    self.token = token
    self.limits = limits or Limits()
    self.connections: set['_Connection'] = set()
    self._allowance: dict[str, tuple[float, float]] = {}
    self._logged_s = -_LOG_PERIOD_S

  @property
  def is_full(self) -> bool:
    return len(self.connections) >= self.limits.connections

  def admit(self, connection: '_Connection') -> bool:
    """Adds a connection, in place of an idle one if all are taken.

    Returns:
      False if all connections are taken and none is idle.
    """
    if self.is_full:
      idlest = min(self.connections, key=lambda c: c.active_s)
      if time.monotonic() - idlest.active_s < _PROTECTED_S:
        return False
      self.connections.discard(idlest)
      idlest.give_up()
    self.connections.add(connection)
    return True

  def may_ask(self, address: str) -> bool:
    """Returns whether this address may send a request, and counts one.

    Each address has a bucket of one second's requests, which fills at
    `Limits.requests_per_s`.
    """
    now, rate = time.monotonic(), self.limits.requests_per_s
    left, since = self._allowance.get(address, (rate, now))
    left = min(rate, left + (now - since) * rate)
    if len(self._allowance) > 4 * self.limits.connections:
      self._allowance.clear()
    self._allowance[address] = (max(left - 1, 0.), now)
    return left >= 1

  def log_fault(self) -> None:
    """Logs the exception in flight, at most once per `_LOG_PERIOD_S`."""
    now = time.monotonic()
    if now - self._logged_s >= _LOG_PERIOD_S:
      self._logged_s = now
      logging.exception('a request could not be answered')

  async def run(self, listener) -> None:
    """Serves on a listening socket until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(self),
                                      sock=listener)
    async with server:
      while True:
        await asyncio.sleep(1)
        now = time.monotonic()
        for connection in list(self.connections):
          if now > connection.deadline:
            connection.give_up()


class _Connection(asyncio.Protocol):
  """One client's connection."""

  def __init__(self, server: Server):
    self._server = server
    self._parser = http_requests.RequestParser(server.token)
    self._buffer = bytearray()  # received, but not parsed yet
    self._busy = False  # An answer is being computed.
    self._unread = False  # Answers wait because the client reads none.
    self._transport = None
    self.active_s = time.monotonic()  # of the last request, or of the start
    self.deadline = self.active_s + _REQUEST_S

  def connection_made(self, transport) -> None:
    self._transport = transport
    peer = transport.get_extra_info('peername')
    self._address = peer[0] if isinstance(peer, tuple) else 'local'
    transport.set_write_buffer_limits(high=1 << 16)
    if not self._server.admit(self):
      self._fail(http_requests.HttpError(503, 'too many connections'))

  def connection_lost(self, exc) -> None:
    del exc
    self._server.connections.discard(self)

  def pause_writing(self) -> None:
    self._unread = True
    self._transport.pause_reading()

  def resume_writing(self) -> None:
    self._unread = False
    self._resume()

  def give_up(self) -> None:
    """Closes the connection; answers 408 to an incomplete request."""
    if self._parser.in_request and not self._busy and not self._unread:
      self._fail(http_requests.HttpError(
          408, 'the request did not arrive in time'))
    self._transport.abort()  # Drop unsent data.

  def data_received(self, data: bytes) -> None:
    if not (self._buffer or self._parser.in_request):
      self.deadline = time.monotonic() + _REQUEST_S
    self._buffer += data
    if not self._busy:
      self._work()
    elif len(self._buffer) > _LARGEST_BUFFER:
      self._transport.pause_reading()

  def _may_work(self) -> bool:
    return not (self._busy or self._unread or self._transport.is_closing())

  def _resume(self) -> None:
    """Reads and answers again, unless something else forbids it."""
    if self._may_work():
      self._transport.resume_reading()
      self._work()

  def _work(self) -> None:
    """Parses and answers what was received, as long as answers are read."""
    results = self._parser.results
    try:
      while self._may_work() and (results or self._buffer):
        if results:
          self._answer(results.popleft())
        else:
          piece = bytes(self._buffer[:http_requests.PIECE])
          del self._buffer[:http_requests.PIECE]
          self._parser.feed(piece)
    except http_requests.HttpError as error:
      self._fail(error)
    except Exception:  # A fault of this program ends one connection only.
      self._server.log_fault()
      self._fail(http_requests.HttpError(500, 'an error of the server'))

  def _answer(self, request: Union[http_requests.Request,
                                   http_requests.HttpError]) -> None:
    if not self._server.may_ask(self._address):
      raise http_requests.HttpError(429, 'too many requests; ask less often')
    if isinstance(request, http_requests.HttpError):
      raise request
    self.active_s = time.monotonic()
    more = self._buffer or self._parser.in_request or self._parser.results
    self.deadline = self.active_s + (_REQUEST_S if more else _IDLE_S)
    try:
      answer = self._server.handle(request)
    except http_requests.HttpError as error:  # The connection stays open.
      answer = http_requests.encode_error(error)
    if isinstance(answer, bytes):
      self._send(answer, request)
    else:
      self._busy = True
      asyncio.ensure_future(self._answer_later(answer, request))

  async def _answer_later(self, answer: Awaitable[bytes],
                          request: http_requests.Request) -> None:
    try:
      self._send(await answer, request)
    except http_requests.HttpError as error:
      self._send(http_requests.encode_error(error), request)
    except Exception:  # As above.
      self._server.log_fault()
      self._fail(http_requests.HttpError(500, 'an error of the server'))
    self._busy = False
    self._resume()

  def _send(self, answer: bytes, request: http_requests.Request) -> None:
    if self._transport.is_closing():
      return
    # A full server gives each client one request, so that others get a turn.
    if request.keep_alive and not self._server.is_full:
      self._transport.write(answer)
    else:
      self._transport.write(http_requests.mark_last(answer))
      self._transport.close()

  def _fail(self, error: http_requests.HttpError) -> None:
    """Sends an error and closes the connection."""
    self._buffer.clear()
    self._transport.write(http_requests.mark_last(
        http_requests.encode_error(error)))
    self._transport.close()
