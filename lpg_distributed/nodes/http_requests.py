"""HTTP/1.1 requests and answers in JSON, with limits; httptools parses them.

Allowed are GET and POST of a path, with a Content-Length, keep-alive and
pipelining. Everything else of HTTP is refused.
"""

import collections
import hmac
import json
import re
from typing import Any, Awaitable, NamedTuple, Optional, Union
import urllib.parse

import httptools

LARGEST_HEAD = 4096  # bytes of request line and headers, to within a piece
LARGEST_BODY = 4096  # bytes
LARGEST_PATH = 1024  # bytes, with the query
PIECE = 1024  # bytes to feed a parser at once
_MOST_PARAMETERS = 8
REASONS = {200: 'OK', 400: 'Bad Request', 401: 'Unauthorized',
           403: 'Forbidden', 404: 'Not Found', 405: 'Method Not Allowed',
           408: 'Request Timeout', 409: 'Conflict', 413: 'Content Too Large',
           415: 'Unsupported Media Type', 429: 'Too Many Requests',
           431: 'Request Header Fields Too Large',
           500: 'Internal Server Error', 501: 'Not Implemented',
           503: 'Service Unavailable'}
_LOCAL_HOSTS = ('localhost', '127.0.0.1', '[::1]')

Answer = Union[bytes, Awaitable[bytes]]  # from `encode`


class HttpError(Exception):
  """An answer that reports an error; the message is one line."""

  def __init__(self, code: int, message: str):
    super().__init__(message)
    self.code = code


class Request(NamedTuple):
  """A whole request that passed all checks of this module."""
  method: str  # GET or POST
  path: str  # as sent, without the query
  query: dict[str, str]  # parameters, decoded
  content_type: str  # without its parameters; '' if there is none
  keep_alive: bool
  body: bytes


def encode(content: Any, code: int = 200) -> bytes:
  """Encodes an answer: status line, headers, and `content` as JSON."""
  body = json.dumps(content).encode() + b'\n'
  authenticate = 'WWW-Authenticate: Bearer\r\n' if code == 401 else ''
  return (f'HTTP/1.1 {code} {REASONS[code]}\r\n'
          'Content-Type: application/json\r\nCache-Control: no-store\r\n'
          f'X-Content-Type-Options: nosniff\r\n{authenticate}'
          f'Content-Length: {len(body)}\r\n\r\n').encode() + body


def encode_error(error: HttpError) -> bytes:
  """Encodes an error as an answer."""
  return encode({'error': {'code': error.code, 'message': str(error)}},
                error.code)


def mark_last(answer: bytes) -> bytes:
  """Adds the header which says that the connection is closed after this."""
  return answer.replace(b'\r\n', b'\r\nConnection: close\r\n', 1)


class RequestParser:
  """Parses the bytes of one connection.

  `results` receives each whole request, in order. A malformed, too large or
  unauthorised request gives an `HttpError` in its place. Nothing that follows
  the error is parsed.
  """

  def __init__(self, token: Optional[str]):
    """Begins a connection.

    Args:
      token: the bearer token that each request must carry. None: requests must
        name a local host in their Host header. Otherwise a web page could send
        requests here under a host name of its own (DNS rebinding).
    """
    self.results: collections.deque[Union[Request, HttpError]] = (
        collections.deque())
    self.in_request = False  # A request has begun and is not whole.
    self._token = token
    self._parser = httptools.HttpRequestParser(self)
    self._failed = False
    self._begin()

  def _begin(self) -> None:
    self._fed = 0  # bytes since the last whole request
    self._in_head = True
    self._url = b''
    self._headers: dict[bytes, bytes] = {}
    self._body = b''

  def feed(self, piece: bytes) -> None:
    """Parses the next bytes, at most `PIECE`."""
    if self._failed:
      return
    self._fed += len(piece)
    num_results = len(self.results)
    try:
      self._parser.feed_data(piece)
      if not self.in_request and len(self.results) == num_results:
        raise HttpError(400, 'empty lines before a request are not allowed')
      if self._in_head:
        self._check_head_size()
    except httptools.HttpParserUpgrade:  # This request closes the connection.
      self._failed = True
    except httptools.HttpParserCallbackError as error:
      if not isinstance(error.__context__, HttpError):
        raise
      self._fail(error.__context__)
    except httptools.HttpParserError:
      self._fail(HttpError(400, 'the request is malformed'))
    except HttpError as error:
      self._fail(error)

  def _fail(self, error: HttpError) -> None:
    self._failed = True
    self.in_request = False
    self.results.append(error)

  def _check_head_size(self) -> None:
    if self._fed > LARGEST_HEAD:
      raise HttpError(431, f'the head is larger than {LARGEST_HEAD} bytes')

  # Called by httptools.

  def on_message_begin(self) -> None:
    self.in_request = True

  def on_url(self, part: bytes) -> None:
    self._url += part

  def on_header(self, name: bytes, value: bytes) -> None:
    name = name.lower()
    if name in self._headers:
      raise HttpError(400, f'the header {name.decode()} comes twice')
    self._headers[name] = value

  def on_headers_complete(self) -> None:
    self._check_head_size()
    self._in_head = False
    method, version = self._parser.get_method(), self._parser.get_http_version()
    if version not in ('1.0', '1.1'):
      raise HttpError(400, 'the version of HTTP is unknown; allowed: 1.0, 1.1')
    if method not in (b'GET', b'POST') or not self._url.startswith(b'/'):
      raise HttpError(400, 'allowed: GET or POST of a path')
    if version == '1.1' and b'host' not in self._headers:
      raise HttpError(400, 'the Host header is missing')
    if b'transfer-encoding' in self._headers:
      raise HttpError(501, 'bodies need a Content-Length')
    # httptools has checked that this is a number.
    length = int(self._headers.get(b'content-length', b'0'))
    if length > LARGEST_BODY:
      raise HttpError(413, f'the body is larger than {LARGEST_BODY} bytes')
    if method == b'GET' and length:
      raise HttpError(400, 'a GET has no body')
    _check_sender(self._headers, self._token)

  def on_body(self, part: bytes) -> None:
    self._body += part

  def on_message_complete(self) -> None:
    path, query = _parse_url(self._url)
    content_type = self._headers.get(b'content-type', b'').decode('latin-1')
    self.results.append(Request(
        method=self._parser.get_method().decode(), path=path, query=query,
        content_type=content_type.split(';')[0].strip(),
        keep_alive=(self._parser.should_keep_alive()
                    and not self._parser.should_upgrade()),
        body=self._body))
    self.in_request = False
    self._begin()


def _parse_url(url: bytes) -> tuple[str, dict[str, str]]:
  """Path and parameters of a request's target."""
  if len(url) > LARGEST_PATH or not re.fullmatch(rb'[!-~]*', url):
    raise HttpError(400, 'the path is malformed; allowed: at most '
                    f'{LARGEST_PATH} printable characters')
  path, _, query = url.decode().partition('?')
  try:
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True,
                                   max_num_fields=_MOST_PARAMETERS)
  except ValueError:
    raise HttpError(400, 'there are too many parameters; allowed: '
                    f'{_MOST_PARAMETERS}') from None
  if len(dict(pairs)) != len(pairs):
    raise HttpError(400, 'a parameter comes twice')
  return path, dict(pairs)


def _check_sender(headers: dict[bytes, bytes], token: Optional[str]) -> None:
  """Raises HttpError unless the sender may ask."""
  if token is None:
    host = headers.get(b'host', b'').decode('latin-1')
    if host.rpartition(':')[0] not in _LOCAL_HOSTS and (
        host not in _LOCAL_HOSTS):
      raise HttpError(403, 'the Host header names another host')
    return
  shown = headers.get(b'authorization', b'')
  if not hmac.compare_digest(shown, b'Bearer ' + token.encode()):
    raise HttpError(401, 'the token is missing or wrong')
