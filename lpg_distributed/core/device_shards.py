"""Advances shards of one environment kind on all local devices in parallel.

Each device runs the same compiled program on its own shard. Nothing is summed
over devices: gradients come back shard by shard. So results do not depend on
the number of devices, nor on that of workers.
"""

from typing import Any, Sequence

import chex
import jax
import numpy as np

from lpg_distributed.core import lifetime

_AXIS = 'shards'


def _shard_map(function, mesh, in_specs, out_specs):
  """Calls `shard_map`; its module and one argument depend on JAX's version."""
  if hasattr(jax, 'shard_map'):
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs,
                         out_specs=out_specs, check_vma=False)
  from jax.experimental import shard_map
  return shard_map.shard_map(function, mesh, in_specs, out_specs,
                             check_rep=False)


class DeviceShards:
  """Runs `Shard.advance` for several shards, at most one per device."""

  def __init__(self, shard: lifetime.Shard, devices: Sequence[jax.Device]):
    """Prepares the program, without compiling it.

    Args:
      shard: functions of the shards' common kind.
      devices: at least one.
    """
    self._devices = tuple(devices)
    if len(self._devices) == 1:
      self.compiled = jax.jit(shard.advance)
      return

    def advance_one(eta, arm_log_probs, state, numbers):
      *shard_id, step = numbers[0]
      gradient, state, metrics = shard.advance(
          eta, arm_log_probs, state, lifetime.ShardId(*shard_id), step)
      return gradient, state, metrics._replace(
          gradient_not_finite=metrics.gradient_not_finite[None])

    # Arrays of all shards are concatenated along the first axis. Each device
    # then holds the arrays of its shard, without a copy or a reshape.
    mesh = jax.sharding.Mesh(np.array(self._devices), (_AXIS,))
    replicated = jax.sharding.PartitionSpec()
    sharded = jax.sharding.PartitionSpec(_AXIS)
    self._sharding = jax.sharding.NamedSharding(mesh, sharded)
    self.compiled = jax.jit(_shard_map(
        advance_one, mesh, (replicated, replicated, sharded, sharded), sharded))

  def __len__(self) -> int:
    return len(self._devices)

  def lower(self, eta_size: int, num_arms: int,
            state: lifetime.ShardState) -> jax.stages.Lowered:
    """Returns the program before it is compiled. The devices need not exist.

    Args:
      eta_size: P, number of the rule's parameters.
      num_arms: number of the bandit's arms.
      state: state of one shard; only its shapes are read.
    """
    single = len(self) == 1
    replicated = (jax.sharding.SingleDeviceSharding(self._devices[0])
                  if single else jax.sharding.NamedSharding(
                      self._sharding.mesh, jax.sharding.PartitionSpec()))
    sharded = replicated if single else self._sharding
    array = lambda shape, dtype=np.float32, sharding=replicated: (
        jax.ShapeDtypeStruct(shape, dtype, sharding=sharding))
    states = jax.tree_util.tree_map(lambda x: array(
        (len(self) * x.shape[0], *x.shape[1:]), x.dtype, sharded), state)
    number = array((), np.int32)
    numbers = ((lifetime.ShardId(*[number] * 4), number) if single
               else (array((len(self), 5), np.int32, sharded),))
    return self.compiled.lower(array((eta_size,)), array((num_arms,)), states,
                               *numbers)

  def advance(
      self, eta: chex.Array, arm_log_probs: chex.Array,
      states: Sequence[lifetime.ShardState],
      shard_ids: Sequence[lifetime.ShardId], steps: Sequence[int],
  ) -> list[tuple[chex.Array, lifetime.ShardState, lifetime.ShardMetrics]]:
    """Advances each shard by one window; see `lifetime.Shard.advance`.

    Args:
      eta: [P].
      arm_log_probs: [arms].
      states: one state per shard; at least one, at most one per device.
      shard_ids: one per shard.
      steps: one meta-step per shard.

    Returns:
      The results of `Shard.advance`, per shard, on the shard's device.
    """
    count = len(states)
    if not 0 < count <= len(self):
      raise ValueError(f'{count} shards for {len(self)} devices; allowed: 1 '
                       f'to {len(self)}')
    if len(self) == 1:
      # A loaded program binds its results to the device. JAX would compile
      # again for a state that is bound, so the first state is bound as well.
      state = jax.device_put(states[0], self._devices[0])
      return [self.compiled(eta, arm_log_probs, state, shard_ids[0],
                            np.int32(steps[0]))]
    # Devices without a shard repeat the last shard, so that one program serves
    # any number of shards.
    order = list(range(count)) + [count - 1] * (len(self) - count)
    numbers = np.array([(*shard_ids[i], steps[i]) for i in order], np.int32)
    joined = jax.tree_util.tree_map(lambda *xs: self._join(xs),
                                    *(states[i] for i in order))
    out = self.compiled(eta, arm_log_probs, joined, numbers)
    return [self._take(out, device) for device in self._devices[:count]]

  def _join(self, leaves):
    """Joins the shards' leaves to one array, each shard on its device."""
    placed = [jax.device_put(x, device)
              for x, device in zip(leaves, self._devices)]
    shape = (len(placed) * placed[0].shape[0],) + placed[0].shape[1:]
    return jax.make_array_from_single_device_arrays(
        shape, self._sharding, placed)

  def _take(self, out: Any, device: jax.Device):
    """Returns the results of the shard that is on `device`."""
    def one(x):
      (shard,) = (s for s in x.addressable_shards if s.device == device)
      return shard.data

    gradient, state, metrics = jax.tree_util.tree_map(one, out)
    return gradient, state, metrics._replace(
        gradient_not_finite=np.asarray(metrics.gradient_not_finite)[0])
