"""The node that lives lifetimes: eta in, meta-gradients out.

A worker owns shards. Per meta-step it takes eta and the bandit's
distributions, advances its shards by one window and puts one `MetaGradient`
per shard into the queue. Nothing in what it computes depends on how many
workers there are.
"""

import dataclasses
import functools
import threading
from typing import Any, Callable, Optional, Sequence

from absl import logging
import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import lifetime
from lpg_distributed.nodes import checkpointing
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import step_metrics

# How long one wait for eta or for room in the queue may be; then `stop` is
# looked at again.
_WAIT_S = 5.


@dataclasses.dataclass
class _Slot:
  """A shard and where it is."""
  spec: config_lib.ShardSpec
  advance: Callable[..., Any]
  shard_id: lifetime.ShardId
  step: int  # windows done; in synchronous mode the meta-step to do next
  state: lifetime.ShardState
  # The window before, until nobody can ask for it any more.
  previous: Optional[tuple[int, lifetime.ShardState]] = None

  def at(self, step: Optional[int]) -> tuple[int, lifetime.ShardState]:
    """Step and state, of `step` or, for None, the newest."""
    if step in (None, self.step):
      return self.step, self.state
    if self.previous is not None and self.previous[0] == step:
      return self.previous
    raise ValueError(f'shard {self.spec.shard_id} is at window {self.step} '
                     f'and has no state of {step}')


class LifetimeWorker:
  """Advances its shards until the learner has finished or `stop` is set."""

  def __init__(
      self,
      config: config_lib.Config,
      worker_id: int,
      shards: Sequence[config_lib.ShardSpec],
      learner: Any,
      bandit: Any,
      queue: gradient_queue.GradientWriter,
      run_dir: str,
      checkpoint: Optional[checkpointing.Checkpoint],
      stop: threading.Event,
      on_closed: Callable[[], None] = lambda: None,
  ):
    """Builds the shards, at birth or as `checkpoint` has them.

    Args:
      config: the run.
      worker_id: among the run's workers.
      shards: those that are this worker's.
      learner: a `MetaLearner` or a client of one.
      bandit: a `BanditServer` or a client of one.
      queue: where gradients go.
      run_dir: where checkpoints are written to.
      checkpoint: where to go on, or None.
      stop: set from outside when the program ends.
      on_closed: called once the shards are saved after `stop`, perhaps while
        a computation is still running.
    """
    self._config = config
    self._worker_id = worker_id
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
    make = functools.lru_cache(maxsize=None)(self._make_shard)
    self._slots = [self._make_slot(spec, make, checkpoint) for spec in shards]

  def _make_shard(self, environment, num_lifetimes):
    shard = lifetime.make_shard(self._config, environment, num_lifetimes)
    return shard.empty(), jax.jit(shard.advance)

  def _make_slot(self, spec, make, checkpoint):
    state, advance = make(spec.environment, spec.num_lifetimes)
    step = 0
    if checkpoint is not None:
      name = checkpointing.shard_part_name(spec.shard_id)
      saved = checkpointing.load_tree(
          checkpointing.read_part(checkpoint, name),
          like={'step': 0, 'state': state})
      step, state = int(saved['step']), saved['state']
    shard_id = lifetime.ShardId(*(np.int32(x) for x in (
        self._config.run.seed, spec.shard_id, spec.first_slot,
        spec.kind_lifetimes)))
    return _Slot(spec, advance, shard_id, step, state)

  def run(self) -> None:
    """Works until the end; saves the shards when the learner asks for it."""
    if not self._slots:  # More workers than shards; the others go on.
      return
    watcher = threading.Thread(target=self._close_when_stopped, daemon=True,
                               name=f'stop_watcher_{self._worker_id}')
    watcher.start()
    while not self._stop.is_set():
      update = self._learner.get_update(
          self._worker_id, self._slots[0].step if self._synchronous else 0,
          _WAIT_S)
      if update is None:
        continue
      if update['finished']:
        break
      self._save_if_asked(update['save_meta_step'])
      self._advance(update['meta_step'], update['eta'])
    self._close()

  def _advance(self, meta_step: int, eta: np.ndarray) -> None:
    """One window of every shard."""
    arm_log_probs = self._get_arm_log_probs(meta_step)
    eta = jax.device_put(eta)
    for slot in self._slots:
      if self._stop.is_set():
        return
      if self._synchronous and slot.step != meta_step:
        raise RuntimeError(f'shard {slot.spec.shard_id} is at window '
                           f'{slot.step}, the learner at {meta_step}')
      gradient, state, metrics = jax.block_until_ready(slot.advance(
          eta, arm_log_probs[slot.spec.environment], slot.state,
          slot.shard_id, np.int32(slot.step)))
      message = types.MetaGradient(
          meta_step, slot.spec.shard_id, np.asarray(gradient),
          slot.spec.num_lifetimes,
          step_metrics.encode(jax.device_get(metrics)))
      # The state moves on before the gradient leaves: whoever has seen the
      # gradient may ask for the state after it.
      with self._close_lock:
        slot.previous = slot.step, slot.state
        slot.state, slot.step = state, slot.step + 1
      while not self._queue.put(message, _WAIT_S):
        if self._stop.is_set():
          return

  def _get_arm_log_probs(self, meta_step: int) -> dict[str, np.ndarray]:
    result = {}
    for name in {slot.spec.environment for slot in self._slots}:
      answer = self._bandit.get_log_probabilities(name)
      if self._synchronous and answer['meta_step'] != meta_step:
        raise RuntimeError(f'the bandit is at meta-step {answer["meta_step"]},'
                           f' the learner at {meta_step}')
      result[name] = np.asarray(answer['log_probabilities'], np.float32)
    return result

  def _save_if_asked(self, meta_step: int) -> None:
    """Writes the shards for the learner's open checkpoint, once."""
    if meta_step in (-1, self._saved_meta_step):
      return
    with self._close_lock:
      self._save(meta_step)

  def _save(self, meta_step: int) -> None:
    for slot in self._slots:
      step, state = slot.at(meta_step if self._synchronous else None)
      data = checkpointing.save_tree({'step': step, 'state': state})
      record = checkpointing.write_part(
          self._run_dir, meta_step,
          checkpointing.shard_part_name(slot.spec.shard_id), data)
      self._learner.record_part(
          meta_step, record.name, record.sha256, record.size)
    self._saved_meta_step = meta_step

  def _close_when_stopped(self) -> None:
    self._stop.wait()
    try:
      self._close()
    except Exception:  # The launcher waits for nobody's checkpoint forever.
      logging.exception('worker %d could not save its shards',
                        self._worker_id)
    self._on_closed()

  def _close(self) -> None:
    """Saves the shards as they are where the learner has come to a halt."""
    with self._close_lock:
      if self._closed:
        return
      self._closed = True
      meta_step = self._learner.stop_training()
      if meta_step != self._saved_meta_step:
        self._save(meta_step)
