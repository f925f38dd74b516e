"""Compares the numbers of meta-steps on a device with those on the CPU."""

from concurrent import futures
import contextlib
import multiprocessing
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from lpg_distributed import config as config_lib

_LIFETIMES = 4
_STEPS = 2  # meta-steps

# Largest allowed relative error, by precision of matrix products: the norm of
# the difference over the norm of the CPU's array. Two meta-steps run 2 K agent
# updates, each of which amplifies rounding errors.
TOLERANCES: Mapping[str, float] = {'highest': 2e-3, 'high': 2e-2,
                                   'default': 2e-1}


class ShardResult(NamedTuple):
  """Results of `_STEPS` meta-steps of one shard, on the host."""
  gradient: np.ndarray  # [P], of the last meta-step
  values: np.ndarray  # every floating-point number of the shard's state
  loss: np.ndarray  # [L]


class RelativeErrors(NamedTuple):
  """Errors relative to the CPU's numbers; see `errors`."""
  gradient: float
  values: float
  loss: float


def make_config(name: str, precision: str, units: int,
                envs: int) -> config_lib.Config:
  """Returns a configuration with `_LIFETIMES` lifetimes of one kind."""
  return config_lib.Config(
      environments=(name,), rule=config_lib.RuleConfig(lstm_size=units),
      meta=config_lib.MetaConfig(num_lifetimes=_LIFETIMES, num_envs=envs),
      run=config_lib.RunConfig(matmul_precision=precision))


def compute(name: str, precision: str, units: int, envs: int) -> ShardResult:
  """Runs `_STEPS` meta-steps of one shard on JAX's default device."""
  import jax

  from lpg_distributed.core import lifetime
  from lpg_distributed.core import rule_vector
  config = make_config(name, precision, units, envs)
  shard = lifetime.make_shard(config, name, _LIFETIMES, jax.default_backend())
  # Drawn on the host, so that all devices have the same bits.
  eta = np.random.default_rng(0).normal(
      0., 0.1, rule_vector.size(config.rule)).astype(np.float32)
  arms = np.zeros(len(config.agents[name].arms), np.float32)
  shard_id = lifetime.ShardId(*map(np.int32, (0, 0, 0, _LIFETIMES)))
  advance, state = jax.jit(shard.advance), shard.empty()
  for step in range(_STEPS):
    gradient, state, metrics = advance(eta, arms, state, shard_id,
                                       np.int32(step))
  leaves = [np.asarray(x).ravel() for x in jax.tree_util.tree_leaves(state)]
  return ShardResult(np.asarray(gradient), np.concatenate(
      [x for x in leaves if x.dtype == np.float32]), np.asarray(metrics.loss))


def _use_cpu() -> None:
  """Restricts JAX to the CPU, in a process that has used no device yet."""
  import jax
  jax.config.update('jax_platforms', 'cpu')


@contextlib.contextmanager
def cpu_results(names: Sequence[str], units: int, envs: int,
                num_processes: int) -> Iterator[Mapping[str, Any]]:
  """Yields futures of the CPU's `ShardResult`, by name of the kind.

  Separate processes compute them.
  """
  with futures.ProcessPoolExecutor(
      num_processes, multiprocessing.get_context('spawn'),
      _use_cpu) as pool:
    # The CPU always multiplies in full precision.
    yield {name: pool.submit(compute, name, 'highest', units, envs)
           for name in names}


def errors(found: ShardResult, expected: ShardResult) -> RelativeErrors:
  """Computes relative errors: ||found - expected|| / ||expected||.

  They are infinite if shapes differ, or NaNs are not at the same places.
  """
  def relative(a, b):
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
      return float('inf')
    a, b = np.nan_to_num(a.astype(float)), np.nan_to_num(b.astype(float))
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))

  return RelativeErrors(*(relative(a, b) for a, b in zip(found, expected)))
