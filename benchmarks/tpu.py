"""Compiles each kind's meta-step for TPUs, without a TPU, and estimates speed.

  python -m benchmarks.tpu [--generations=v4,v5e] [--devices=1,8]
    [--lifetimes=64] [--output=FILE] [names ...]

Compiles for TPU v4 and v5e by `libtpu`, Google's compiler, which is installed
at the first call; see `benchmarks/libtpu.py`. The size is the paper's unless
flags change it. Kinds with convolutions have an eighth of the lifetimes.

All times are per device, which for v4 is one of a chip's two cores:

- arithmetic: FLOPs as `benchmarks/work.py` counts them, at the device's peak.
  A product in full precision takes six in bfloat16.
- memory: bytes that the program reads from and writes to HBM, at the published
  bandwidth; see `benchmarks/hlo_schedule.py`.
- schedule: the compiler's own estimate for its program. It leaves out copies
  that run in parallel with arithmetic.

`steps/s` follows from the longest of the three.

Ends with code 1 if a program's temporaries do not fit.
"""

import argparse
import json
import subprocess
import sys
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from benchmarks import arguments
from benchmarks import libtpu
from benchmarks import work
from lpg_distributed import config as config_lib
from lpg_distributed.envs import suite

MEMORY_GIB = 16.  # memory of a device, the same for v4 and v5e
_PASSES = {'highest': 6, 'high': 3, 'default': 1}  # bfloat16 products


class Device(NamedTuple):
  """Peak rates of a device, as its maker publishes them."""
  flops_per_s: float  # bfloat16
  bytes_per_s: float  # bandwidth of HBM
  clock_hz: float


DEVICES: Mapping[str, Device] = {
    'v4': Device(137.5e12, 614e9, 1.05e9),  # half a chip
    'v5e': Device(197e12, 819e9, 1.5e9)}

_COLUMNS = (  # key, title, format
    ('generation', 'for', '>5'), ('num_devices', 'devices', '>8'),
    ('lifetimes', 'lifetimes', '>10'), ('compile_s', 'compile s', '>10.1f'),
    ('program_mib', 'program MiB', '>12.1f'),
    ('temporaries_gib', 'temporaries GiB', '>16.2f'),
    ('tflop', 'TFLOP', '>7.3f'), ('gbytes', 'GB', '>8.2f'),
    ('arithmetic_ms', 'arithmetic ms', '>14.2f'),
    ('memory_ms', 'memory ms', '>10.2f'),
    ('schedule_ms', 'schedule ms', '>12.2f'),
    ('steps_per_s', 'steps/s', '>12,.0f'))


def compile_all(requests: Sequence[Mapping[str, Any]]
                ) -> Iterator[dict[str, Any]]:
  """Yields the results of `benchmarks.tpu_compile`, which a new process runs.

  Raises:
    LibtpuError: there is no compiler, or it failed; the message is one line.
  """
  command = [sys.executable, '-m', 'benchmarks.tpu_compile',
             json.dumps(requests)]
  with subprocess.Popen(command, env=libtpu.variables(), text=True,
                        stdout=subprocess.PIPE) as process:
    for line in process.stdout:
      if line.startswith('{'):
        yield json.loads(line)
  if process.returncode:
    raise libtpu.LibtpuError('the compiler ended with code '
                             f'{process.returncode}; see above')


def roofline(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns times and speed that one device's hardware allows for a program."""
  environment = suite.load(row['name'])
  config = config_lib.Config(
      rule=config_lib.RuleConfig(lstm_size=row['units']),
      meta=config_lib.MetaConfig(num_envs=row['envs']))
  flops = work.meta_step(
      config, config.agents[row['name']],
      environment.observation_spec().shape,
      environment.action_spec().num_values).total
  steps = row['lifetimes'] * config.meta.window_env_steps
  device = DEVICES[row['generation']]
  arithmetic_s = (flops * steps * _PASSES[row['precision']]
                  / device.flops_per_s)
  memory_s = row['hbm_bytes'] / device.bytes_per_s
  schedule_s = row['cycles'] / device.clock_hz
  return {
      'tflop': flops * steps / 1e12,
      'gbytes': row['hbm_bytes'] / 1e9,
      'arithmetic_ms': 1e3 * arithmetic_s, 'memory_ms': 1e3 * memory_s,
      'schedule_ms': 1e3 * schedule_s,
      'steps_per_s': steps / max(arithmetic_s, memory_s, schedule_s)}


def _parse_generations(text: str) -> tuple[str, ...]:
  names = tuple(text.split(','))
  for name in names:
    if name not in DEVICES:
      raise argparse.ArgumentTypeError(
          f'{name!r}; allowed: {", ".join(DEVICES)}')
  return names


def _parse_devices(text: str) -> tuple[int, ...]:
  if not set(text.split(',')) <= {'1', '8'}:
    raise argparse.ArgumentTypeError(f'{text!r}; allowed: 1, 8')
  return tuple(int(part) for part in text.split(','))


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser_of_names(__doc__)
  parser.add_argument('--generations', type=_parse_generations,
                      default=tuple(DEVICES))
  parser.add_argument('--devices', type=_parse_devices, default=(1,))
  parser.add_argument('--precision', choices=config_lib.MATMUL_PRECISIONS,
                      default='highest')
  for option, default in (('lifetimes', 64), ('units', 256), ('envs', 64)):
    parser.add_argument(f'--{option}', type=arguments.positive,
                        default=default)
  args = arguments.parse(parser, argv)
  rows = []
  print(f'{"environment":<25}' + ''.join(
      f'{title:>{int(fmt[1:].split(".")[0].strip(","))}}'
      for _, title, fmt in _COLUMNS))
  for name in args.names:
    lifetimes = max(1, args.lifetimes // (
        8 if config_lib.AGENTS[name].conv else 1))
    requests = [
        {'name': name, 'generation': generation, 'num_devices': devices,
         'lifetimes': lifetimes, 'units': args.units, 'envs': args.envs,
         'precision': args.precision}
        for generation in args.generations for devices in args.devices]
    try:
      for row in compile_all(requests):
        rows.append({**row, **roofline(row)})
        print(f'{name:<25}' + ''.join(
            f'{rows[-1][key]:{fmt}}' for key, _, fmt in _COLUMNS), flush=True)
        arguments.write(args, rows)
    except libtpu.LibtpuError as error:
      sys.exit(f'benchmarks.tpu: {error}')
  too_large = [f'{row["name"]} ({row["generation"]})' for row in rows
               if row['temporaries_gib'] > MEMORY_GIB]
  if too_large:
    sys.exit(f'temporaries over {MEMORY_GIB:g} GiB: {", ".join(too_large)}')


if __name__ == '__main__':
  main()
