"""Calls that cannot hang, against a real Courier server."""

import concurrent.futures
import socket
import threading
import time

import courier
import numpy as np
import portpicker
import pytest

from lpg_distributed.nodes import rpc


class _Node:
  """A node that Courier serves."""

  def __init__(self):
    self.calls = 0

  def echo(self, value):
    self.calls += 1
    return value

  def get_array(self):
    return np.arange(3, dtype=np.float32)

  def fail(self):
    raise ValueError('arm is 9; allowed: 0 to 8')


@pytest.fixture
def served():
  node, port = _Node(), portpicker.pick_unused_port()
  server = courier.Server(port=port)
  for name in ('echo', 'get_array', 'fail'):
    server.Bind(name, getattr(node, name))
  server.Start()
  yield node, port
  server.Stop()
  server.Join()


def make_client(port, stop=None, patience_s=5., call_timeout=5.):
  raw = courier.Client(f'localhost:{port}', call_timeout=call_timeout)
  return rpc.Client(raw, 'node', stop or threading.Event(), patience_s,
                    call_timeout)


@pytest.mark.parametrize('value', [
    np.float32(1.), np.float64(1.), np.int64(3), np.zeros(2), np.bool_(True),
    [1, np.float64(2.)], {'a': (np.int32(1),)}, {np.str_('a'): 1}, object()])
def test_arguments_that_would_hang_are_refused(served, value):
  node, port = served
  with pytest.raises(TypeError, match='allowed'):
    make_client(port).echo(value)
  assert node.calls == 0


@pytest.mark.parametrize('value', [
    None, True, 3, 0.5, 'a', b'b', [1, [2.]], {'a': [1, None]}])
def test_plain_values_pass(served, value):
  assert make_client(served[1]).echo(value) == value


def test_arrays_may_be_returned(served):
  np.testing.assert_array_equal(make_client(served[1]).get_array(), [0, 1, 2])


def test_an_error_of_the_method_is_raised_at_once(served):
  with pytest.raises(rpc.RpcError, match='allowed: 0 to 8'):
    make_client(served[1]).fail()


def test_a_call_to_an_absent_node_fails_after_its_patience():
  client = make_client(portpicker.pick_unused_port(), patience_s=0.5,
                       call_timeout=0.2)
  with pytest.raises(rpc.RpcError, match='did not answer echo'):
    client.echo(1)
  assert client.num_retries > 0


@pytest.mark.parametrize('patience_s', [0., 0.5])
def test_only_a_call_that_is_repeated_warns(patience_s, caplog):
  """A caller without patience gets the error, and says what it likes."""
  client = make_client(portpicker.pick_unused_port(), patience_s=patience_s,
                       call_timeout=0.2)
  with pytest.raises(rpc.RpcError):
    client.echo(1)
  assert bool(client.num_retries) == bool(patience_s)
  assert len(caplog.records) == client.num_retries


def test_a_call_ends_when_the_program_stops():
  stop = threading.Event()
  stop.set()
  client = make_client(portpicker.pick_unused_port(), stop, patience_s=60.,
                       call_timeout=0.2)
  with pytest.raises(rpc.Stopped):
    client.echo(1)


def test_calls_end_if_couriers_time_limit_fails(monkeypatch):
  """Courier's limit fails after the system's clock was set back."""
  monkeypatch.setattr(rpc, '_LATE_S', 0.1)
  raw = courier.Client(f'localhost:{portpicker.pick_unused_port()}')
  client = rpc.Client(raw, 'node', threading.Event(), 0.5, 0.2)
  begin = time.monotonic()
  with pytest.raises(rpc.RpcError, match='did not answer echo'):
    client.echo(1)
  assert time.monotonic() - begin < 30. and client.num_retries > 0


class _SilentClient:
  """A client whose first calls are answered, if `answers`, and no others."""

  def __init__(self, answers=0):
    self._answers = answers
    self.futures = self

  def echo(self, value):
    answer = concurrent.futures.Future()
    if self._answers:
      self._answers -= 1
      answer.set_result(value)
    return answer


def _seconds_to_stop(client, stop):
  begin = time.monotonic()
  threading.Timer(0.3, stop.set).start()
  with pytest.raises(rpc.Stopped):
    client.echo(1)
  return time.monotonic() - begin


def test_a_stop_does_not_wait_for_a_node_that_never_answered():
  """Otherwise nodes would ignore SIGTERM until they are killed."""
  stop = threading.Event()
  client = rpc.Client(_SilentClient(), 'node', stop, 60., 30.)
  assert _seconds_to_stop(client, stop) < 10.


def test_a_stop_does_not_wait_for_a_real_peer_out_of_reach():
  stop = threading.Event()
  with socket.create_server(('127.0.0.1', 0)) as hole:  # Never accepts.
    client = rpc.Client(
        courier.Client(f'127.0.0.1:{hole.getsockname()[1]}', call_timeout=30.),
        'node', stop, 60., 30.)
    assert _seconds_to_stop(client, stop) < 10.


def test_a_stop_waits_for_a_node_that_has_answered():
  """It may be saving, and the last calls to it count."""
  stop = threading.Event()
  client = rpc.Client(_SilentClient(answers=1), 'node', stop, 60., 2.)
  assert client.echo(3) == 3
  assert _seconds_to_stop(client, stop) >= 4.
