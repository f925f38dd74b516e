"""The node that advances lifetimes: eta in, meta-gradients out.

A worker owns shards. In each meta-step it takes eta and the bandit's
distributions, advances its shards by one window, and puts one `MetaGradient`
per shard into the queue. Its results do not depend on the number of workers.
"""

from concurrent import futures
import dataclasses
import functools
import os
import secrets
import threading
import time
from typing import Any, Callable, Optional, Sequence

from absl import logging
import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import device_shards
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import not_finite
from lpg_distributed.nodes import step_metrics
from lpg_distributed.nodes import traced_programs
from lpg_distributed.store import checkpointing
from lpg_distributed.store import run_versions

# Longest wait for eta or for room in the queue before `stop` is checked.
_WAIT_S = 5.
_PAUSE_S = 0.2  # before asking the bandit or the learner again
_FULL_S = 60.  # Warn if the queue is full for so long.
# Programs that are compiled at a time. Each takes some 100 MiB.
_MOST_COMPILERS = 4


@dataclasses.dataclass
class _Slot:
  """A shard and its state."""
  spec: config_lib.ShardSpec
  shards: device_shards.DeviceShards  # all shards of this environment and size
  shard_id: lifetime.ShardId
  step: int  # windows done; in synchronous mode also the next meta-step
  state: lifetime.ShardState
  # Step and state one window ago; a checkpoint may still need them.
  previous: Optional[tuple[int, lifetime.ShardState]] = None

  def at(self, step: Optional[int]) -> tuple[int, lifetime.ShardState]:
    """Returns step and state at `step`; None: the newest."""
    if step in (None, self.step):
      return self.step, self.state
    if self.previous is not None and self.previous[0] == step:
      return self.previous
    raise ValueError(f'shard {self.spec.shard_id} is at window {self.step} '
                     f'and has no state of {step}')


class LifetimeWorker:
  """Advances its shards until the learner has finished or `stop` is set.

  Whenever the learner begins an epoch, also at the start, the worker loads its
  shards from the checkpoint that the learner names.
  """

  def __init__(
      self,
      config: config_lib.Config,
      worker_id: int,
      shards: Sequence[config_lib.ShardSpec],
      learner: Any,
      bandit: Any,
      queue: gradient_queue.GradientWriter,
      run_dir: str,
      stop: threading.Event,
      on_closed: Callable[[], None] = lambda: None,
  ):
    """Makes a worker; `run` compiles.

    Args:
      config: configuration of the run.
      worker_id: number of this worker.
      shards: the shards that this worker owns; may be empty.
      learner: a `MetaLearner` or an `rpc.Client` of one.
      bandit: a `BanditServer` or an `rpc.Client` of one.
      queue: receives the gradients.
      run_dir: contains the checkpoints.
      stop: set by others when the program ends.
      on_closed: called after `stop`, when the shards are saved. A computation
        may still be running then.
    """
    self._config = config
    self._worker_id = worker_id
    self._specs = shards
    self._learner = learner
    self._bandit = bandit
    self._queue = queue
    self._run_dir = run_dir
    self._stop = stop
    self._on_closed = on_closed
    self._close_lock = threading.Lock()
    self._closed = False
    self._saved_meta_step = -1
    self._synchronous = config.run.mode == 'sync'
    self._make = functools.lru_cache(maxsize=None)(self._make_shard)
    self._epoch = 0  # of the learner; 0: no shards yet
    self._slots: list[_Slot] = []
    # Gradients of the last window by shard, to send again if the queue is lost.
    self._sent: dict[int, types.MetaGradient] = {}
    self._writer = 1 + secrets.randbits(60)
    self._sequence = 0

  def _make_shard(self, environment, num_lifetimes):
    devices = jax.local_devices()
    kind = (self._config, environment, num_lifetimes, devices[0].platform)
    shard = traced_programs.traced(lifetime.make_shard(*kind), *kind)
    state, shards = shard.empty(), device_shards.DeviceShards(shard, devices)
    shards.compiled = shards.lower(
        rule_vector.size(self._config.rule),
        len(self._config.agents[environment].arms), state).compile()
    return state, shards

  def _make_all(self) -> None:
    """Compiles the programs of all shards, unless the program stops.

    Other cores may be idle meanwhile: of two workers, one may have the kind
    that costs as much as all others together.
    """
    by_cost = sorted(self._specs, key=lambda spec: -self._config.relative_cost(
        spec.environment))
    kinds = dict.fromkeys((s.environment, s.num_lifetimes) for s in by_cost)
    make = lambda kind: self._stop.is_set() or self._make(*kind)
    threads = min(_MOST_COMPILERS, len(os.sched_getaffinity(0)))
    with futures.ThreadPoolExecutor(threads, 'compiler') as pool:
      for _ in pool.map(make, kinds):  # Re-raises errors.
        pass

  def _make_slot(self, spec, checkpoint):
    state, shards = self._make(spec.environment, spec.num_lifetimes)
    step = 0
    if checkpoint is not None:
      name = checkpointing.shard_part_name(spec.shard_id)
      saved = checkpointing.read_tree(checkpoint, name,
                                      like={'step': 0, 'state': state})
      step, state = int(saved['step']), saved['state']
    shard_id = lifetime.ShardId(*(np.int32(x) for x in (
        self._config.run.seed, spec.shard_id, spec.first_slot,
        spec.kind_lifetimes)))
    return _Slot(spec, shards, shard_id, step, state)

  def _restore(self, epoch: int, meta_step: int) -> None:
    """Loads the shards from the checkpoint of a meta-step; -1: new ones."""
    logging.info('worker %d takes its shards from checkpoint %d',
                 self._worker_id, meta_step)
    checkpoint = None if meta_step == -1 else checkpointing.open_step(
        self._run_dir, meta_step, verify=False)
    slots = [self._make_slot(spec, checkpoint) for spec in self._specs]
    with self._close_lock:
      self._slots, self._epoch = slots, epoch
      self._saved_meta_step = -1
      self._sent = {}

  def run(self) -> None:
    """Advances the shards; saves them when the learner asks."""
    if not self._specs:  # There are more workers than shards.
      return
    watcher = threading.Thread(target=self._close_when_stopped, daemon=True,
                               name=f'stop_watcher_{self._worker_id}')
    watcher.start()
    if self._worker_id == 0:
      run_versions.record_device(self._run_dir,
                                 jax.local_devices()[0].device_kind)
    self._make_all()  # While the learner starts.
    while not self._stop.is_set():
      wanted = self._slots[0].step if self._slots and self._synchronous else 0
      update = self._learner.get_update(
          self._worker_id, self._epoch, wanted, _WAIT_S)
      if update['epoch'] != self._epoch:
        self._restore(update['epoch'], update['restore_step'])
        continue
      if update['finished']:
        return
      self._save_if_asked(update['save_meta_step'])
      if not update['reached']:
        self._put_again(update['missing'])
      elif not (update['go_on']
                and self._advance(update['meta_step'], update['eta'])):
        self._stop.wait(_PAUSE_S)
    self._close()

  def _advance(self, meta_step: int, eta: np.ndarray) -> bool:
    """Advances each shard a window; False if the bandit is not ready."""
    arm_log_probs = self._get_arm_log_probs(meta_step)
    if arm_log_probs is None:
      return False
    eta = jax.device_put(eta)
    self._sent = {}
    for slots in self._rounds():
      if self._stop.is_set():
        return True
      for slot in slots:
        if self._synchronous and slot.step != meta_step:
          raise RuntimeError(f'shard {slot.spec.shard_id} is at window '
                             f'{slot.step}, the learner at {meta_step}')
      results = jax.block_until_ready(slots[0].shards.advance(
          eta, arm_log_probs[slots[0].spec.environment],
          *zip(*((slot.state, slot.shard_id, slot.step) for slot in slots))))
      for slot, (gradient, state, metrics) in zip(slots, results):
        message = types.MetaGradient(
            meta_step, slot.spec.shard_id, np.asarray(gradient),
            slot.spec.num_lifetimes, self._encode(metrics, state),
            self._epoch)
        # Update the state before sending: after the gradient, the learner may
        # ask for a checkpoint of the new state.
        with self._close_lock:
          slot.previous = slot.step, slot.state
          slot.state, slot.step = state, slot.step + 1
        self._sent[slot.spec.shard_id] = message
        self._put(message)
    return True

  def _rounds(self) -> list[list[_Slot]]:
    """Groups the shards that the local devices advance at once."""
    kinds: dict[int, list[_Slot]] = {}
    for slot in self._slots:
      kinds.setdefault(id(slot.shards), []).append(slot)
    return [slots[i:i + len(slots[0].shards)] for slots in kinds.values()
            for i in range(0, len(slots), len(slots[0].shards))]

  def _encode(self, metrics, state) -> dict[str, Any]:
    encoded = step_metrics.encode(jax.device_get(metrics))
    if (any(encoded.get('not_finite', ()))
        or encoded.get('gradient_not_finite')):
      encoded['hyper'] = not_finite.describe_hyper(state.task.hyper)
    return encoded

  def _put(self, message: types.MetaGradient) -> None:
    """Waits for room in the queue, unless the program stops."""
    message = message._replace(writer=self._writer, sequence=self._sequence)
    self._sequence += 1
    begin = time.monotonic()
    warned = False
    while not self._queue.put(message, _WAIT_S) and not self._stop.is_set():
      if time.monotonic() - begin > _FULL_S and not warned:
        warned = True
        logging.warning('worker %d waits for room in the gradient queue since '
                        '%.0f s', self._worker_id, _FULL_S)

  def _put_again(self, missing: Sequence[int]) -> None:
    """Sends gradients again that the learner misses: the queue lost them."""
    for shard_id in missing:
      if shard_id in self._sent:
        logging.warning('worker %d puts the gradient of shard %d again',
                        self._worker_id, shard_id)
        self._put(self._sent[shard_id])

  def _get_arm_log_probs(self, meta_step: int
                         ) -> Optional[dict[str, np.ndarray]]:
    """log p(alpha|E) [arms] by environment; None while a node restarts."""
    result = {}
    for name in {slot.spec.environment for slot in self._slots}:
      answer = self._bandit.get_log_probabilities(name)
      if answer['epoch'] != self._epoch or (
          self._synchronous and answer['meta_step'] != meta_step):
        return None
      result[name] = np.asarray(answer['log_probabilities'], np.float32)
    return result

  def _save_if_asked(self, meta_step: int) -> None:
    """Writes the shards for the learner's open checkpoint, once."""
    if meta_step in (-1, self._saved_meta_step):
      return
    with self._close_lock:
      self._save(meta_step)

  def _save(self, meta_step: int) -> None:
    try:
      for slot in self._slots:
        step, state = slot.at(meta_step if self._synchronous else None)
        data = checkpointing.save_tree({'step': step, 'state': state})
        record = checkpointing.write_part(
            self._run_dir, meta_step,
            checkpointing.shard_part_name(slot.spec.shard_id), data)
        self._learner.record_part(meta_step, record.name, record.sha256,
                                  record.size, self._epoch)
    except OSError as error:  # For example a full disk.
      logging.error('worker %d cannot save its shards: %s', self._worker_id,
                    error)
      self._learner.give_up_checkpoint(meta_step, str(error), self._epoch)
      return
    self._saved_meta_step = meta_step

  def _close_when_stopped(self) -> None:
    self._stop.wait()
    try:
      self._close()
    except Exception:  # The program ends without it.
      logging.exception('worker %d could not save its shards',
                        self._worker_id)
    self._on_closed()

  def _close(self) -> None:
    """Stops the learner, and saves the shards at its last meta-step."""
    with self._close_lock:
      if self._closed or not self._slots:
        return
      self._closed = True
      halt = self._learner.stop_training()
      if (halt['epoch'] == self._epoch
          and halt['meta_step'] != self._saved_meta_step):
        self._save(halt['meta_step'])
