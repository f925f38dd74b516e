"""A small and strict HTTP/1.1 server for JSON, on asyncio.

It knows GET and POST with a Content-Length, keep-alive and pipelining, and
nothing else of HTTP. Whatever comes in is bounded: the head, the body, the
time to send them, the answers that nobody reads, the connections, and the
requests per second of one address. What is malformed is answered with an error
and the connection is closed.
"""

import asyncio
import hmac
import json
import re
import time
from typing import Any, Awaitable, Callable, NamedTuple, Optional, Union
import urllib.parse

from absl import logging

LARGEST_HEAD = 4096  # bytes, with the request line
LARGEST_BODY = 4096
_REQUEST_S = 10.  # for a request to come in whole
_IDLE_S = 60.  # between two requests
_KNOWN_HEADS = 256  # whose meaning is remembered
_LINE = re.compile(rb'(GET|POST) (/[!-~]{0,1023}) HTTP/1\.[01]')
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*"
                     rb'([ -~\t]{0,1024}?)[ \t]*')
_REASONS = {200: 'OK', 400: 'Bad Request', 401: 'Unauthorized',
            403: 'Forbidden', 404: 'Not Found', 405: 'Method Not Allowed',
            408: 'Request Timeout', 413: 'Content Too Large',
            415: 'Unsupported Media Type', 429: 'Too Many Requests',
            431: 'Request Header Fields Too Large',
            500: 'Internal Server Error', 501: 'Not Implemented',
            503: 'Service Unavailable', 505: 'HTTP Version Not Supported'}
_LOCAL_HOSTS = ('localhost', '127.0.0.1', '[::1]')


class HttpError(Exception):
  """An answer that is an error; the message is one line."""

  def __init__(self, code: int, message: str):
    super().__init__(message)
    self.code = code


class Request(NamedTuple):
  """What a head says, checked."""
  method: str
  path: str
  query: dict[str, str]
  length: int  # of the body
  keep_alive: bool
  content_type: str


Answer = Union[bytes, Awaitable[bytes]]  # JSON


class Limits(NamedTuple):
  connections: int = 256
  requests_per_s: float = 20_000.  # of one address


def encode(content: Any, code: int = 200, keep_alive: bool = True) -> bytes:
  """A whole answer."""
  body = content if isinstance(content, bytes) else (
      json.dumps(content).encode() + b'\n')
  authenticate = 'WWW-Authenticate: Bearer\r\n' if code == 401 else ''
  connection = '' if keep_alive else 'Connection: close\r\n'
  return (f'HTTP/1.1 {code} {_REASONS[code]}\r\n'
          'Content-Type: application/json\r\nCache-Control: no-store\r\n'
          f'X-Content-Type-Options: nosniff\r\n{authenticate}{connection}'
          f'Content-Length: {len(body)}\r\n\r\n').encode() + body


def parse_head(head: bytes, token: Optional[str]) -> Request:
  """Reads a request's head, without its last empty line.

  Args:
    head: the lines.
    token: what a bearer must show; None: only local hosts may be addressed,
      so that no web page gets here under a name of its own.

  Raises:
    HttpError: it is malformed, or its sender may not ask.
  """
  line, *rest = head.split(b'\r\n')
  match = _LINE.fullmatch(line)
  if match is None:
    raise HttpError(400, 'the request line is malformed; allowed: GET or POST '
                    'of a path')
  headers: dict[bytes, bytes] = {}
  for field in rest:
    header = _HEADER.fullmatch(field)
    if header is None:
      raise HttpError(400, 'a header is malformed')
    name = header[1].lower()
    if name in headers:
      raise HttpError(400, f'the header {name.decode()} comes twice')
    headers[name] = header[2]
  if b'transfer-encoding' in headers:
    raise HttpError(501, 'bodies need a Content-Length')
  length = headers.get(b'content-length', b'0')
  if not re.fullmatch(rb'\d{1,9}', length):
    raise HttpError(400, 'the Content-Length is no number')
  if int(length) > LARGEST_BODY:
    raise HttpError(413, f'the body is larger than {LARGEST_BODY} bytes')
  if match[1] == b'GET' and int(length):
    raise HttpError(400, 'a GET has no body')
  _check_sender(headers, token)
  url = urllib.parse.urlsplit(match[2].decode())
  pairs = urllib.parse.parse_qsl(url.query, keep_blank_values=True,
                                 max_num_fields=8)
  if len(dict(pairs)) != len(pairs):
    raise HttpError(400, 'a parameter comes twice')
  return Request(
      match[1].decode(), url.path, dict(pairs), int(length),
      headers.get(b'connection', b'').lower() != b'close'
      and line.endswith(b'1.1'),
      headers.get(b'content-type', b'').decode().split(';')[0].strip())


def _check_sender(headers, token) -> None:
  if token is None:
    host = headers.get(b'host', b'').decode()
    if host.rpartition(':')[0] not in _LOCAL_HOSTS and (
        host not in _LOCAL_HOSTS):
      raise HttpError(403, 'the Host header names another host')
    return
  shown = headers.get(b'authorization', b'')
  if not hmac.compare_digest(shown, b'Bearer ' + token.encode()):
    raise HttpError(401, 'the token is missing or wrong')


class Server:
  """Answers with what `handle` gives for a request and its body."""

  def __init__(self, handle: Callable[[Request, bytes], Answer],
               token: Optional[str] = None,
               limits: Optional[Limits] = None):
    self.handle = handle
    self.token = token
    self.limits = limits or Limits()
    self.connections: set['_Connection'] = set()
    self.known: dict[bytes, Request] = {}
    self._allowance: dict[str, tuple[float, float]] = {}

  def understand(self, head: bytes) -> Request:
    """`parse_head`, which gives the same for the same, remembered."""
    request = self.known.get(head)
    if request is None:
      request = parse_head(head, self.token)
      if len(self.known) >= _KNOWN_HEADS:
        self.known.clear()
      self.known[head] = request
    return request

  def may_ask(self, address: str) -> bool:
    """A bucket of one second's requests per address."""
    now, rate = time.monotonic(), self.limits.requests_per_s
    left, since = self._allowance.get(address, (rate, now))
    left = min(rate, left + (now - since) * rate)
    if len(self._allowance) > 4 * self.limits.connections:
      self._allowance.clear()
    self._allowance[address] = (max(left - 1, 0.), now)
    return left >= 1

  async def run(self, listener) -> None:
    """Serves on a listening socket, or more of them, until cancelled."""
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
  """One client."""

  def __init__(self, server: Server):
    self._server = server
    self._buffer = bytearray()
    self._busy = False
    self._unread = False  # Answers wait, since the client reads none.
    self._transport = None
    self.deadline = 0.

  def connection_made(self, transport) -> None:
    self._transport = transport
    peer = transport.get_extra_info('peername')
    self._address = peer[0] if isinstance(peer, tuple) else 'local'
    transport.set_write_buffer_limits(high=1 << 16)
    self.deadline = time.monotonic() + _REQUEST_S
    if len(self._server.connections) >= self._server.limits.connections:
      self._fail(HttpError(503, 'too many connections'))
    else:
      self._server.connections.add(self)

  def connection_lost(self, exc) -> None:
    del exc
    self._server.connections.discard(self)

  def pause_writing(self) -> None:
    self._unread = True
    self._transport.pause_reading()

  def resume_writing(self) -> None:
    self._unread = False
    self._go_on()

  def give_up(self) -> None:
    """The time is over."""
    if self._buffer and not self._busy and not self._unread:
      self._fail(HttpError(408, 'the request did not come in whole'))
    # What nobody reads is not waited for.
    self._transport.abort()

  def data_received(self, data: bytes) -> None:
    self._buffer += data
    if not self._busy:
      self._work()
    elif len(self._buffer) > LARGEST_HEAD + LARGEST_BODY:
      self._transport.pause_reading()

  def _go_on(self) -> None:
    """Reads and answers again, unless something else still forbids it."""
    if not (self._busy or self._unread or self._transport.is_closing()):
      self._transport.resume_reading()
      self._work()

  def _work(self) -> None:
    """Answers what is there, as long as the answers are read."""
    try:
      while not (self._busy or self._unread or self._transport.is_closing()):
        if not self._answer_one():
          break
    except HttpError as error:
      self._fail(error)
    except Exception:  # A fault of ours ends a connection and no more.
      logging.exception('a request could not be answered')
      self._fail(HttpError(500, 'an error of the server'))

  def _answer_one(self) -> bool:
    buffer = self._buffer
    end = buffer.find(b'\r\n\r\n', 0, LARGEST_HEAD + 4)
    if end < 0:
      if len(buffer) > LARGEST_HEAD:
        raise HttpError(431, f'the head is larger than {LARGEST_HEAD} bytes')
      return False
    if not self._server.may_ask(self._address):
      raise HttpError(429, 'too many requests; ask less often')
    request = self._server.understand(bytes(buffer[:end]))
    total = end + 4 + request.length
    if len(buffer) < total:
      return False
    body = bytes(buffer[end + 4:total])
    del buffer[:total]
    self.deadline = time.monotonic() + (_REQUEST_S if buffer else _IDLE_S)
    try:
      answer = self._server.handle(request, body)
    except HttpError as error:  # The connection itself is in order.
      self._send(encode(_error(error), error.code, request.keep_alive),
                 request)
      return True
    if isinstance(answer, bytes):
      self._send(answer, request)
    else:
      self._busy = True
      asyncio.ensure_future(self._answer_later(answer, request))
    return True

  async def _answer_later(self, answer, request) -> None:
    try:
      self._send(await answer, request)
    except HttpError as error:
      self._send(encode(_error(error), error.code, request.keep_alive),
                 request)
    except Exception:  # As above.
      logging.exception('a request could not be answered')
      self._fail(HttpError(500, 'an error of the server'))
    self._busy = False
    self._go_on()

  def _send(self, answer: bytes, request: Request) -> None:
    self._transport.write(answer)
    if not request.keep_alive:
      self._transport.close()

  def _fail(self, error: HttpError) -> None:
    self._buffer.clear()
    self._transport.write(encode(_error(error), error.code, False))
    self._transport.close()


def _error(error: HttpError) -> dict[str, Any]:
  return {'error': {'code': error.code, 'message': str(error)}}
