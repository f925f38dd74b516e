"""The queue between lifetime workers and the meta-learner.

`LocalGradientQueue` is for one process, `ReverbGradientWriter` and
`ReverbGradientReader` are for the distributed program. Both are bounded, hold
`MetaGradient`s, and deliver each once. Reverb is imported only where it is
used: its server imports TensorFlow; see `light_reverb` for its client.
"""

import importlib.util
import json
import os
import queue
import sys
import threading
import time
from typing import NamedTuple, Optional, Protocol

from absl import logging
import numpy as np

from lpg_distributed import light_imports
from lpg_distributed import types
from lpg_distributed.nodes import light_reverb

TABLE = 'meta_gradients'
_AWAY_PAUSE_S = 0.5
# The columns of a message, in Reverb's order.
_COLUMNS = ('gradient_sum', 'header', 'metrics')


class QueueCounts(NamedTuple):
  """Numbers of items since the queue was made."""
  inserted: int
  waiting: int  # in the queue
  held: int  # taken out by the reader, but not returned by `get` yet


class GradientWriter(Protocol):
  """Receives the workers' gradients."""

  def put(self, gradient: types.MetaGradient, timeout_s: float) -> bool:
    """Returns False if there was no room in time; then call again."""


class GradientReader(Protocol):
  """Delivers gradients to the learner."""

  def get(self, timeout_s: float) -> Optional[types.MetaGradient]:
    """Returns None if none arrived in time."""

  def books(self) -> Optional[QueueCounts]:
    """Counts of items; None if they are not known."""


class LocalGradientQueue:
  """A queue within one process, both reader and writer."""

  def __init__(self, capacity: int):
    self._queue: queue.Queue = queue.Queue(capacity)
    self._lock = threading.Lock()
    self._inserted = 0

  def put(self, gradient: types.MetaGradient, timeout_s: float) -> bool:
    try:
      self._queue.put(gradient, timeout=timeout_s)
    except queue.Full:
      return False
    with self._lock:
      self._inserted += 1
    return True

  def get(self, timeout_s: float) -> Optional[types.MetaGradient]:
    try:
      return self._queue.get(timeout=timeout_s)
    except queue.Empty:
      return None

  def books(self) -> QueueCounts:
    return QueueCounts(self._inserted, self._queue.qsize(), 0)


def _import_tensorflow() -> None:
  """Imports TensorFlow without Keras, which takes a third of the time.

  Reverb does not need it. The first use of `tensorflow.keras` imports it.
  """
  with light_imports.without('keras'):
    import tensorflow  # pylint: disable=g-import-not-at-top
  keras = importlib.util.find_spec('keras')
  if keras is not None:  # Makes `tensorflow.keras` work, as TensorFlow does.
    tensorflow.__path__.append(os.path.join(
        os.path.dirname(keras.origin), 'api', '_v2'))


def import_reverb():
  """Imports all of Reverb, after Distrax.

  Distrax, which a user's environment may import, fails to import after the
  TensorFlow that Reverb needs, but works if imported before.
  """
  if light_reverb.is_light():
    raise RuntimeError('this process has imported the client of Reverb alone')
  if 'tensorflow' not in sys.modules:
    light_imports.import_distrax()
    _import_tensorflow()
  import reverb  # pylint: disable=g-import-not-at-top
  return reverb


def _make_client(address: str):
  return light_reverb.import_client()(address)


def make_table(capacity: int, num_parameters: int):
  """Makes the Reverb table: first in, first out, bounded, each item once.

  Args:
    capacity: items; when it is full, writers wait.
    num_parameters: length of eta as a vector.
  """
  reverb = import_reverb()
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  signature = {
      'gradient_sum': tf.TensorSpec((num_parameters,), tf.float32),
      'header': tf.TensorSpec((6,), tf.int64),
      'metrics': tf.TensorSpec((), tf.string),
  }
  return reverb.Table.queue(TABLE, capacity, signature=signature)


def encode(gradient: types.MetaGradient) -> dict[str, np.ndarray]:
  """Encodes a gradient for Reverb: numbers as arrays, metrics as JSON."""
  return {
      'gradient_sum': np.asarray(gradient.gradient_sum, np.float32),
      'header': np.array([gradient.meta_step, gradient.shard_id,
                          gradient.num_lifetimes, gradient.epoch,
                          gradient.writer, gradient.sequence], np.int64),
      'metrics': np.array(json.dumps(gradient.metrics).encode(), object),
  }


def decode(item: dict[str, np.ndarray]) -> types.MetaGradient:
  """Inverse of `encode`."""
  meta_step, shard_id, num_lifetimes, *origin = (
      int(x) for x in item['header'])
  return types.MetaGradient(
      meta_step, shard_id, item['gradient_sum'], num_lifetimes,
      json.loads(item['metrics'].item()), *origin)


class ReverbGradientWriter:
  """Puts gradients into the Reverb queue, for one worker and one thread.

  Reverb's writer keeps an item until the server has it, or the one that
  replaces it.
  """

  def __init__(self, address: str):
    self._client = _make_client(address)
    self._writer = None
    self._connecting: Optional[queue.Queue] = None
    self._pending = False

  def _connect(self, timeout_s: float) -> bool:
    """Makes Reverb's writer; returns False if that takes longer.

    To a host out of reach Reverb connects without a time limit. The main thread
    must not wait for it, since signals would then have no effect.
    """
    if self._connecting is None:
      self._connecting = queue.Queue(1)
      threading.Thread(target=self._make_writer, args=(self._connecting,),
                       daemon=True, name='gradient_writer').start()
    try:
      made = self._connecting.get(timeout=timeout_s)
    except queue.Empty:
      return False
    self._connecting = None
    if isinstance(made, Exception):
      raise made
    self._writer = made
    return True

  def _make_writer(self, made: queue.Queue) -> None:
    try:
      made.put(self._client.trajectory_writer(num_keep_alive_refs=1))
    except Exception as error:  # pylint: disable=broad-except
      made.put(error)

  def put(self, gradient: types.MetaGradient, timeout_s: float) -> bool:
    """See `GradientWriter`; after False, call again with the same gradient."""
    try:
      if self._writer is None and not self._connect(timeout_s):
        return False
      if not self._pending:
        self._writer.append(encode(gradient))
        self._writer.create_item(TABLE, 1., {
            name: column[-1] for name, column
            in self._writer.history.items()})
        self._pending = True
      self._writer.flush(timeout_ms=int(timeout_s * 1000))
    except Exception as error:  # Reverb has its own class for a timeout.
      if type(error).__name__ != 'DeadlineExceededError':
        logging.warning('the gradient queue is away: %s', error)
        self._writer, self._pending = None, False
        time.sleep(_AWAY_PAUSE_S)
      return False
    self._pending = False
    return True


class ReverbGradientReader:
  """Takes gradients out of the Reverb queue.

  Reverb's client blocks without a time limit, so it has its own thread, which
  hands over one item at a time. It takes the next item after the handover, so
  that little is lost with this process. While the server is away, it waits for
  another at the same address.

  It is also the `GradientWriter` of a worker in the same process.
  """

  def __init__(self, address: str):
    self._client = _make_client(address)
    self._handed_over: queue.Queue = queue.Queue(1)
    # Items from the queue, from `put`, and to the learner.
    self._taken = self._put_here = self._given = 0
    threading.Thread(target=self._read, daemon=True,
                     name='gradient_reader').start()

  def _read(self):
    while True:
      try:
        for sample in self._client.sample(TABLE, emit_timesteps=False):
          self._taken += 1
          self._handed_over.put(decode(dict(zip(_COLUMNS, sample.data))))
      except Exception as error:  # Of Reverb or of its gRPC.
        logging.warning('the gradient queue is away: %s', error)
        time.sleep(_AWAY_PAUSE_S)

  def put(self, gradient: types.MetaGradient, timeout_s: float) -> bool:
    """See `GradientWriter`; for one worker, one thread."""
    try:
      self._handed_over.put(gradient, timeout=timeout_s)
    except queue.Full:
      return False
    self._put_here += 1
    return True

  def get(self, timeout_s: float) -> Optional[types.MetaGradient]:
    """See `GradientReader`."""
    try:
      gradient = self._handed_over.get(timeout=timeout_s)
    except queue.Empty:
      return None
    self._given += 1
    return gradient

  def books(self, timeout_s: int = 5) -> Optional[QueueCounts]:
    """Counts of this server and reader; None if the server is away."""
    try:
      table = self._client.server_info(timeout=timeout_s)[TABLE]
    except Exception as error:  # As above.
      logging.warning('the gradient queue is away: %s', error)
      return None
    return QueueCounts(
        table.rate_limiter_info.insert_stats.completed + self._put_here,
        table.current_size, self._taken + self._put_here - self._given)
