"""A cache on disk of the programs that JAX has traced for shards.

JAX caches compiled programs, but traces and lowers again in each process. That
takes 3 to 8 s per environment. This cache is in `jax_compilation_cache_dir`
too. A program's key is the hash of everything that it depends on: the
sources of `envs` and `core`, the configuration, the versions, JAX's settings.
"""

import functools
import hashlib
from importlib import metadata
import os
import pathlib
import sys

from absl import logging
import jax
from jax import export
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import core
from lpg_distributed import envs
from lpg_distributed import files
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_vector
from lpg_distributed.envs import suite

_PACKAGES = ('jax', 'jaxlib', 'dm-haiku', 'optax', 'rlax', 'chex', 'numpy')
# JAX's settings that change what is traced.
_SETTINGS = ('jax_enable_x64', 'jax_default_matmul_precision',
             'jax_default_prng_impl', 'jax_threefry_partitionable',
             'jax_numpy_dtype_promotion', 'jax_numpy_rank_promotion',
             'jax_debug_nans', 'jax_debug_infs', 'jax_platforms')


@functools.lru_cache(maxsize=None)
def _fingerprint_of_code() -> str:
  """Hash of sources and versions, hexadecimal."""
  found = hashlib.sha256(sys.version.encode())
  for package in _PACKAGES:
    found.update(f'{package} {metadata.version(package)}\n'.encode())
  for module in (envs, core, config_lib):
    path = pathlib.Path(module.__file__)
    sources = path.parent.rglob('*.py') if path.stem == '__init__' else [path]
    for source in sorted(sources):
      found.update(source.name.encode() + source.read_bytes())
  return found.hexdigest()


def _key(config: config_lib.Config, environment: str, num_lifetimes: int,
         platform: str) -> str:
  settings = {name: getattr(jax.config, name) for name in _SETTINGS}
  # Only what a shard depends on, so that runs share programs.
  parts = (config.agents[environment], config.rule, config.meta, config.outer,
           config.lifetime_windows(environment), environment, num_lifetimes,
           config.run.matmul_precision, platform, settings)
  text = '\n'.join([_fingerprint_of_code(), *map(repr, parts)])
  return hashlib.sha256(text.encode()).hexdigest()


def _example(config: config_lib.Config, environment: str,
             state: lifetime.ShardState):
  """Arguments of `advance` with the right shapes and types."""
  number = np.int32(0)
  return (np.zeros(rule_vector.size(config.rule), np.float32),
          np.zeros(len(config.agents[environment].arms), np.float32),
          state, lifetime.ShardId(*[number] * 4), number)


def _load(path: str):
  """Loads a program; None if there is none, or if it is damaged."""
  try:
    data = pathlib.Path(path).read_bytes()
    return export.deserialize(bytearray(data))
  except FileNotFoundError:
    return None
  except Exception as error:  # The deserialiser raises many types.
    logging.warning('a traced program is damaged, and made again: %s: %s',
                    path, error)
    return None


def traced(shard: lifetime.Shard, config: config_lib.Config, environment: str,
           num_lifetimes: int, platform: str = 'cpu') -> lifetime.Shard:
  """Gives a shard an `advance` that is traced once for all processes.

  Results stay the same, bit for bit. `shard` itself is returned without a
  directory for compiled programs, and for environments outside the suite.

  Args:
    shard: `lifetime.make_shard` of the other arguments.
    config: configuration of the run.
    environment: name of the environment.
    num_lifetimes: L, lifetimes of the shard.
    platform: platform of this process's devices.
  """
  directory = jax.config.jax_compilation_cache_dir
  if not directory or environment not in suite.ALL:
    return shard
  key = _key(config, environment, num_lifetimes, platform)
  path = os.path.join(directory, 'traced', f'{environment}_{key}')
  state = shard.empty()  # Once, because this traces too.
  leaves, structure = jax.tree_util.tree_flatten(
      _example(config, environment, state))
  exported = _load(path)
  if exported is None:
    def flat(*leaves):
      gradient, state, metrics = shard.advance(
          *jax.tree_util.tree_unflatten(structure, leaves))
      return (gradient, *jax.tree_util.tree_leaves(state), *metrics)

    exported = export.export(jax.jit(flat))(*leaves)
    try:
      os.makedirs(os.path.dirname(path), exist_ok=True)
      files.write_whole(path, bytes(exported.serialize()))
    except OSError as error:  # The next process traces it again.
      logging.warning('a traced program cannot be kept: %s', error)
  state_structure = jax.tree_util.tree_structure(state)

  def advance(*arguments):
    gradient, *rest = exported.call(*jax.tree_util.tree_leaves(arguments))
    count = state_structure.num_leaves
    return (gradient,
            jax.tree_util.tree_unflatten(state_structure, rest[:count]),
            lifetime.ShardMetrics(*rest[count:]))

  return lifetime.Shard(lambda: state, advance)
