"""The queue between lifetime workers and the meta-learner.

`LocalGradientQueue` serves one process, `ReverbGradientWriter` and
`ReverbGradientReader` the distributed program; both hold whole `MetaGradient`s,
bounded, each taken out once. Reverb is imported only where it is used, since it
brings TensorFlow with it.
"""

import json
import queue
import sys
import threading
from typing import Optional, Protocol

import numpy as np

from lpg_distributed import types

TABLE = 'meta_gradients'


class GradientWriter(Protocol):
  """Where workers put their gradients."""

  def put(self, gradient: types.MetaGradient, timeout_s: float) -> bool:
    """Returns False if there was no room in time; nothing was put then."""


class GradientReader(Protocol):
  """Where the learner takes them from."""

  def get(self, timeout_s: float) -> Optional[types.MetaGradient]:
    """Returns None if none arrived in time."""


class LocalGradientQueue:
  """A queue within one process, both reader and writer."""

  def __init__(self, capacity: int):
    self._queue: queue.Queue = queue.Queue(capacity)

  def put(self, gradient: types.MetaGradient, timeout_s: float) -> bool:
    try:
      self._queue.put(gradient, timeout=timeout_s)
    except queue.Full:
      return False
    return True

  def get(self, timeout_s: float) -> Optional[types.MetaGradient]:
    try:
      return self._queue.get(timeout=timeout_s)
    except queue.Empty:
      return None


def import_reverb():
  """Reverb, and RLax before it.

  RLax's distributions refuse to be imported after the TensorFlow that Reverb
  is built for, and do not mind it when they come first.
  """
  if 'tensorflow' not in sys.modules:
    import rlax  # pylint: disable=g-import-not-at-top
    del rlax
  import reverb  # pylint: disable=g-import-not-at-top
  return reverb


def make_table(capacity: int, num_parameters: int):
  """The Reverb table: first in, first out, sampled once, bounded.

  Args:
    capacity: items; a writer waits when they are all taken.
    num_parameters: length of eta as a vector.
  """
  reverb = import_reverb()
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  signature = {
      'gradient_sum': tf.TensorSpec((num_parameters,), tf.float32),
      'header': tf.TensorSpec((3,), tf.int64),
      'metrics': tf.TensorSpec((), tf.string),
  }
  return reverb.Table.queue(TABLE, capacity, signature=signature)


def encode(gradient: types.MetaGradient) -> dict[str, np.ndarray]:
  """One Reverb step: numbers as arrays, metrics as JSON."""
  return {
      'gradient_sum': np.asarray(gradient.gradient_sum, np.float32),
      'header': np.array([gradient.meta_step, gradient.shard_id,
                          gradient.num_lifetimes], np.int64),
      'metrics': np.array(json.dumps(gradient.metrics).encode(), object),
  }


def decode(item: dict[str, np.ndarray]) -> types.MetaGradient:
  """The reverse of `encode`."""
  meta_step, shard_id, num_lifetimes = (int(x) for x in item['header'])
  return types.MetaGradient(
      meta_step, shard_id, item['gradient_sum'], num_lifetimes,
      json.loads(item['metrics'].item()))


class ReverbGradientWriter:
  """Puts gradients into the Reverb queue; one per worker, one thread."""

  def __init__(self, address: str):
    self._client = import_reverb().Client(address)
    self._writer = None
    self._pending = False

  def put(self, gradient: types.MetaGradient, timeout_s: float) -> bool:
    """See `GradientWriter`; after False, call again with the same gradient."""
    if self._writer is None:
      self._writer = self._client.trajectory_writer(num_keep_alive_refs=1)
    if not self._pending:
      self._writer.append(encode(gradient))
      self._writer.create_item(TABLE, 1., {
          name: column[-1] for name, column in self._writer.history.items()})
      self._pending = True
    try:
      self._writer.flush(timeout_ms=int(timeout_s * 1000))
    except Exception as error:  # Reverb has its own class for a timeout.
      if type(error).__name__ == 'DeadlineExceededError':
        return False
      raise
    self._pending = False
    return True


class ReverbGradientReader:
  """Takes gradients out of the Reverb queue.

  Reverb's client blocks without a limit, so a thread of its own waits there
  and hands over one item at a time.
  """

  def __init__(self, address: str):
    self._client = import_reverb().Client(address)
    self._handed_over: queue.Queue = queue.Queue(1)
    self._error: Optional[Exception] = None
    threading.Thread(target=self._read, daemon=True,
                     name='gradient_reader').start()

  def _read(self):
    try:
      while True:
        for sample in self._client.sample(TABLE, emit_timesteps=False,
                                          unpack_as_table_signature=True):
          self._handed_over.put(decode(sample.data))
    except Exception as error:  # Shown to whoever calls `get`.
      self._error = error

  def get(self, timeout_s: float) -> Optional[types.MetaGradient]:
    """See `GradientReader`.

    Raises:
      RuntimeError: the queue's server is gone.
    """
    try:
      return self._handed_over.get(timeout=timeout_s)
    except queue.Empty:
      if self._error is not None:
        raise RuntimeError(
            f'the gradient queue is gone: {self._error}') from None
      return None
