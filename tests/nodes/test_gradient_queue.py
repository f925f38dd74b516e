"""Both queues deliver whole messages in order and once, and are bounded."""

import math
import socket
import tempfile
import threading
import time

import numpy as np
import portpicker
import pytest

from lpg_distributed import types
from lpg_distributed.nodes import gradient_queue

SIZE = 50


def make_gradient(shard_id, num_numbers=3):
  return types.MetaGradient(
      7, shard_id, np.full(SIZE, shard_id + 0.5, np.float32), 16,
      {'arm': list(range(num_numbers)), 'bad': [True], 'x': [math.nan, 1e300]})


def make_local():
  queue = gradient_queue.LocalGradientQueue(2)
  yield queue, queue


def make_reverb():
  reverb = gradient_queue.import_reverb()
  server = reverb.Server([gradient_queue.make_table(2, SIZE)],
                         port=portpicker.pick_unused_port())
  address = f'localhost:{server.port}'
  yield (gradient_queue.ReverbGradientWriter(address),
         gradient_queue.ReverbGradientReader(address))
  server.stop()


@pytest.fixture(params=[make_local, make_reverb])
def ends(request, tmp_path, monkeypatch):
  # Reverb makes a directory for checkpoints and leaves it.
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  yield from request.param()


def test_messages_arrive_whole_in_order_and_once(ends):
  writer, reader = ends
  sent = [make_gradient(i, num_numbers=i + 1) for i in range(6)]
  for gradient in sent:
    assert writer.put(gradient, 5.)
    received = reader.get(5.)
    assert received[:2] == gradient[:2] and received.num_lifetimes == 16
    np.testing.assert_array_equal(received.gradient_sum,
                                  gradient.gradient_sum)
    assert received.gradient_sum.dtype == np.float32
    assert received.metrics['arm'] == gradient.metrics['arm']
    assert received.metrics['bad'] == [True]
    assert math.isnan(received.metrics['x'][0])
  assert reader.get(0.1) is None


def test_a_full_queue_refuses_messages_and_loses_none(ends):
  writer, reader = ends
  put = 0
  # The reader may have fetched a few already; beyond that nothing fits.
  while writer.put(make_gradient(put), 0.3):
    put += 1
    assert put < 20
  assert put >= 2
  assert reader.get(5.).shard_id == 0
  assert writer.put(make_gradient(put), 5.)
  assert [reader.get(5.).shard_id for _ in range(put)] == list(
      range(1, put + 1))
  assert reader.get(0.1) is None


def test_a_reader_takes_gradients_of_its_own_process_without_a_server():
  for writer, reader in make_reverb():
    for i in range(3):
      assert writer.put(make_gradient(i), 5.)
    received = [reader.get(5.).shard_id]
    while not reader.put(make_gradient(10), 0.1):
      received.append(reader.get(5.).shard_id)
    # A message that has left the server is counted when it arrives.
    deadline = time.monotonic() + 5.
    while (books := reader.books()).inserted != (
        len(received) + books.held + books.waiting):
      assert time.monotonic() < deadline, books
    assert books.inserted == 4
    while len(received) < 4:
      received.append(reader.get(5.).shard_id)
    assert sorted(received) == [0, 1, 2, 10]
    assert not reader.get(0.1)


def test_a_queue_out_of_reach_does_not_block_the_main_thread():
  """Otherwise SIGTERM would have no effect; Reverb connects without a limit."""
  with socket.create_server(('127.0.0.1', 0)) as hole:  # Never accepts.
    writer = gradient_queue.ReverbGradientWriter(
        f'127.0.0.1:{hole.getsockname()[1]}')
    begin = time.monotonic()
    for _ in range(3):  # One attempt, which goes on.
      assert not writer.put(make_gradient(0), 0.1)
    assert time.monotonic() - begin < 20.
    assert sum(thread.name == 'gradient_writer'
               for thread in threading.enumerate()) == 1
