"""A shard is compiled for the chosen platform with the chosen precision."""

import dataclasses
import re

import jax
from jax import export
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_vector

SMALL = config_lib.Config(
    rule=config_lib.RuleConfig(lstm_size=8, num_predictions=4,
                               embedding_size=4),
    meta=config_lib.MetaConfig(num_lifetimes=16, num_envs=4, num_updates=2,
                               trajectory_steps=3))


def exported(config, name, platforms, shard_platform):
  shard = lifetime.make_shard(config, name, 2, shard_platform)
  number = np.int32(0)
  arguments = (np.zeros(rule_vector.size(config.rule), np.float32),
               np.zeros(len(config.agents[name].arms), np.float32),
               shard.empty(), lifetime.ShardId(*[number] * 4), number)
  flat, structure = jax.tree_util.tree_flatten(arguments)
  function = lambda *leaves: jax.tree_util.tree_leaves(
      shard.advance(*jax.tree_util.tree_unflatten(structure, leaves)))
  return export.export(jax.jit(function), platforms=platforms)(*flat)


def precisions(program):
  """The precisions of all matrix products of a program."""
  products = re.findall(r'stablehlo\.dot_general.*', program.mlir_module())
  assert len(products) > 10
  found = [re.search(r'precision = \[(\w+), (\w+)\]', p) for p in products]
  # MLIR does not print the default one.
  return {precision for match in found
          for precision in (match.groups() if match else ('DEFAULT',))}


# One per kind of observation: tables of grids and chains, planes, and bits.
QUICK = ('tabular_dense', 'random_dense', 'chain_short',
         'chain_state_distraction', 'balance')


@pytest.mark.parametrize('name', [
    *QUICK, *(pytest.param(name, marks=pytest.mark.long)
              for name in config_lib.ALL_AGENTS if name not in QUICK)])
def test_every_kind_is_lowered_for_cuda_in_full_precision(name):
  config = dataclasses.replace(SMALL, environments=(name,))
  program = exported(config, name, ['cuda'], 'gpu')
  assert program.platforms == ('cuda',)
  assert precisions(program) == {'HIGHEST'}


@pytest.mark.parametrize('precision', [
    'high', pytest.param('default', marks=pytest.mark.pinned)])
def test_all_products_have_the_chosen_precision(precision):
  config = dataclasses.replace(SMALL, run=dataclasses.replace(
      SMALL.run, matmul_precision=precision))
  program = exported(config, 'chain_short', ['tpu'], 'tpu')
  assert precisions(program) == {precision.upper()}


def test_chunks_are_larger_on_accelerators():
  config = config_lib.Config()
  size = lambda name, platform: lifetime.chunk_size(config, name, 64, platform)
  for platform in ('gpu', 'tpu'):
    assert size('chain_short', platform) > size('chain_short', 'cpu')
    assert size('random_dense', platform) > size('random_dense', 'cpu')
