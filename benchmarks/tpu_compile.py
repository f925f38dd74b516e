"""Compiles the meta-step of a kind for a TPU; needs `libtpu`.

`benchmarks.tpu` runs `python -m benchmarks.tpu_compile REQUESTS` in the
environment of `benchmarks.libtpu`. REQUESTS is a JSON list of the fields of
`CompileRequest`. Prints one line of JSON for each.
"""

import json
import sys
import time
from typing import Any, Mapping, NamedTuple, Sequence

import jax
from jax.experimental import topologies

from benchmarks import hlo_schedule
from lpg_distributed import config as config_lib
from lpg_distributed.core import device_shards
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_vector

# A topology with eight devices, by generation.
TOPOLOGIES: Mapping[str, str] = {'v4': 'v4:2x2x1', 'v5e': 'v5e:2x4'}


class CompileRequest(NamedTuple):
  """A program to compile."""
  name: str  # environment kind
  generation: str  # a key of TOPOLOGIES
  num_devices: int  # 1 or 8
  lifetimes: int  # lifetimes per shard; each device has one shard
  units: int = 256
  envs: int = 64
  num_updates: int = 5
  trajectory_steps: int = 20
  num_predictions: int = 30
  precision: str = 'highest'


def devices(request: CompileRequest) -> Sequence[Any]:
  """Returns devices to compile for; they need not exist."""
  topology = topologies.get_topology_desc(TOPOLOGIES[request.generation],
                                          platform='tpu')
  if len(topology.devices) < request.num_devices:
    raise ValueError(f'{TOPOLOGIES[request.generation]} has '
                     f'{len(topology.devices)} devices')
  return topology.devices[:request.num_devices]


def make_config(request: CompileRequest) -> config_lib.Config:
  """Returns a configuration with eight shards of one kind."""
  return config_lib.Config(
      environments=(request.name,),
      rule=config_lib.RuleConfig(lstm_size=request.units,
                                 num_predictions=request.num_predictions),
      meta=config_lib.MetaConfig(
          num_lifetimes=8 * request.lifetimes, num_envs=request.envs,
          num_updates=request.num_updates,
          trajectory_steps=request.trajectory_steps),
      run=config_lib.RunConfig(lifetimes_per_shard=request.lifetimes,
                               matmul_precision=request.precision))


def compile_for_tpu(request: CompileRequest) -> dict[str, Any]:
  """Compiles the program that a worker on a TPU runs; see `DeviceShards`."""
  targets = devices(request)
  config = make_config(request)
  shard = lifetime.make_shard(config, request.name, request.lifetimes, 'tpu')
  shards = device_shards.DeviceShards(shard, targets)
  begin = time.monotonic()
  lowered = shards.lower(
      rule_vector.size(config.rule),
      len(config.agents[request.name].arms), shard.empty())
  lowered_s = time.monotonic() - begin
  begin, begin_cpu = time.monotonic(), time.process_time()
  compiled = lowered.compile()
  compile_s = time.monotonic() - begin
  compile_cpu_s = time.process_time() - begin_cpu
  memory = compiled.memory_analysis()
  cost = hlo_schedule.of_text(compiled.as_text())
  return {
      **request._asdict(), 'device': targets[0].device_kind,
      'lower_s': lowered_s, 'compile_s': compile_s,
      'compile_cpu_s': compile_cpu_s,
      'program_mib': memory.generated_code_size_in_bytes / 2 ** 20,
      'temporaries_gib': memory.temp_size_in_bytes / 2 ** 30,
      'arguments_gib': memory.argument_size_in_bytes / 2 ** 30,
      'cycles': cost.cycles, 'hbm_bytes': cost.hbm_bytes,
      'devices_of_program': _num_devices(compiled), 'jax': jax.__version__}


def _num_devices(compiled: Any) -> int:
  """Returns the number of devices that the compiled program runs on."""
  shardings = jax.tree_util.tree_leaves(compiled.input_shardings)
  return max(len(sharding.device_set) for sharding in shardings)


def main() -> None:
  for fields in json.loads(sys.argv[1]):
    print(json.dumps(compile_for_tpu(CompileRequest(**fields))), flush=True)


if __name__ == '__main__':
  main()
