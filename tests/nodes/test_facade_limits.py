"""Attacks on the facade's connections: bad HTTP, and slow or many clients."""

import socket
import threading
import time

import pytest

from lpg_distributed.nodes import facade_server

GOOD = b'GET /v1/health HTTP/1.1\r\nHost: localhost\r\n'


@pytest.mark.parametrize('data, code', [
    (b'\r\n\r\n', 400), (b'GET /v1/health\r\n\r\n', 400),
    (b'PUT / HTTP/1.1\r\n\r\n', 400), (b'GET  / HTTP/1.1\r\n\r\n', 400),
    (b'GET /\xff HTTP/1.1\r\n\r\n', 400), (b'GET / HTTP/2.0\r\n\r\n', 400),
    (GOOD + b'X\r\n\r\n', 400), (GOOD + b' X: 1\r\n\r\n', 400),
    (GOOD + b'Host: localhost\r\n\r\n', 400),
    (GOOD + b'Content-Length: 5\r\n\r\nhello', 400),
    (GOOD + b'Content-Length: -5\r\n\r\n', 400),
    (GOOD + b'Content-Length: 5, 5\r\n\r\n', 400),
    (GOOD + b'Content-Length: 99999\r\n\r\n', 413),
    (GOOD + b'Transfer-Encoding: chunked\r\n\r\n', 501),
    (b'GET /' + b'a' * 5000, 431),
    (GOOD + b'A: ' + b'a' * 5000 + b'\r\n\r\n', 431)])
def test_malformed_http_gets_an_error_and_is_closed(serve, data, code):
  answer = serve().send_bytes(data)
  assert answer.startswith(b'HTTP/1.1 %d ' % code), answer
  assert b'"error"' in answer and answer.count(b'HTTP/1.1') == 1


def test_requests_may_arrive_in_any_pieces(serve):
  served = serve()
  last = GOOD + b'Connection: close\r\n\r\n'
  answer = served.send_bytes((GOOD + b'\r\n') * 3 + last)
  assert answer.count(b'HTTP/1.1 200 OK') == 4
  with socket.create_connection(('127.0.0.1', served.port)) as connection:
    for i in range(len(last)):
      connection.sendall(last[i:i + 1])
    received = b''
    while chunk := connection.recv(65536):
      received += chunk
  assert received.startswith(b'HTTP/1.1 200 OK')


def test_slow_requests_are_closed(serve, monkeypatch):
  monkeypatch.setattr(facade_server, '_REQUEST_S', 0.5)
  served = serve()
  assert served.send_bytes(GOOD).startswith(b'HTTP/1.1 408 ')
  assert served.send_bytes(b'') == b''


def test_too_many_connections_and_requests_are_refused(serve):
  served = serve(limits=facade_server.Limits(connections=3, requests_per_s=20))
  held = [socket.create_connection(('127.0.0.1', served.port))
          for _ in range(3)]
  while len(served.server.connections) < 3:
    time.sleep(0.01)
  answer = served.send_bytes(GOOD + b'\r\n')
  assert not answer or answer.startswith(b'HTTP/1.1 503 ')
  for connection in held:
    connection.close()
  while served.server.connections:
    time.sleep(0.01)
  answers = served.send_bytes((GOOD + b'\r\n') * 40)
  assert b'HTTP/1.1 429 ' in answers
  assert 18 <= answers.count(b'HTTP/1.1 200 OK') <= 30


@pytest.mark.parametrize('path, code', [
    (b'//[', 404), (b'//]', 404), (b'//[x]/', 404),
    (b'/v1/sample?' + b'a=1&' * 9, 400)])
def test_odd_request_lines_get_an_error_and_no_traceback(
    serve, caplog, path, code):
  answer = serve().send_bytes(GOOD.replace(b'/v1/health', path)
                              + b'Connection: close\r\n\r\n')
  assert answer.startswith(b'HTTP/1.1 %d ' % code), answer
  assert not caplog.records


def test_repeated_faults_of_the_server_are_logged_once(serve, caplog):
  served = serve()
  served.server.handle = lambda request: 1 / 0
  for _ in range(50):
    assert served.ask('/v1/health')[0] == 500
  assert len(caplog.records) == 1


def test_idle_connections_make_room_for_new_ones(serve, monkeypatch):
  monkeypatch.setattr(facade_server, '_PROTECTED_S', 0.3)
  served = serve(limits=facade_server.Limits(connections=3))
  held = [socket.create_connection(('127.0.0.1', served.port), timeout=5)
          for _ in range(3)]
  while len(served.server.connections) < 3:
    time.sleep(0.01)
  held[0].sendall(GOOD[:20])  # An unfinished request is no activity.
  time.sleep(0.5)
  assert served.ask('/v1/health')[0] == 200
  assert held[0].recv(65536).startswith(b'HTTP/1.1 408 ')
  assert len(served.server.connections) <= 3
  for connection in held:
    connection.close()


def test_a_full_server_closes_connections_after_an_answer(serve):
  served = serve(limits=facade_server.Limits(connections=1))
  with socket.create_connection(('127.0.0.1', served.port),
                                timeout=5) as connection:
    connection.sendall(GOOD + b'\r\n')
    answer = b''
    while chunk := connection.recv(65536):
      answer += chunk
  assert b'\r\nConnection: close\r\n' in answer


def test_an_upgrade_is_ignored(serve):
  """As HTTP/1.1 allows; Java's client asks for HTTP/2 in this way."""
  answer = serve().send_bytes(
      GOOD + b'Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n')
  assert answer.startswith(b'HTTP/1.1 200 ') and answer.count(b'HTTP/1.1') == 1


def test_unread_answers_do_not_fill_memory(serve):
  served = serve()
  head = GOOD.replace(b'health', b'schema') + b'\r\n'
  with socket.create_connection(('127.0.0.1', served.port)) as connection:
    connection.settimeout(1)
    with pytest.raises(socket.timeout):
      for _ in range(100_000):
        connection.sendall(head * 20)
    ours = next(iter(served.server.connections))
    # Writing is paused at 64 KiB; an answer is smaller than as much again.
    assert ours._transport.get_write_buffer_size() < 1 << 17
    assert len(ours._buffer) < 1 << 19
  assert served.ask('/v1/health')[0] == 200


def test_late_readers_get_every_answer(serve):
  served = serve(limits=facade_server.Limits(requests_per_s=1e9))
  head = GOOD.replace(b'health', b'schema') + b'\r\n'
  last = head.replace(b'\r\n\r\n', b'\r\nConnection: close\r\n\r\n')
  one = served.send_bytes(last).replace(b'Connection: close\r\n', b'')
  requests = (1 << 25) // len(one)  # More than the system's buffers hold.
  received = bytearray()
  with socket.create_connection(('127.0.0.1', served.port)) as connection:
    sender = threading.Thread(target=connection.sendall,
                              args=(head * requests,))
    sender.start()
    while not any(c._unread for c in tuple(served.server.connections)):
      time.sleep(0.01)
    connection.settimeout(30)
    while len(received) < len(one) * requests:
      chunk = connection.recv(1 << 20)
      assert chunk
      received += chunk
    sender.join()
  assert received == one * requests
