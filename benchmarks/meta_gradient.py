"""Speed and memory of a whole meta-step, for every kind of lifetime.

Each kind runs in a process of its own, on one thread: one shard, at the
paper's shapes unless flags change them. `% best` is a ratio of FLOP/s, counted
by `benchmarks/work.py`: those of the fastest meta-step over those of the
fastest matrix product, timed between the meta-steps. `% med` is the ratio of
the medians. From the repository's root, preferably pinned to one core:

  taskset -c 1 python -m benchmarks.meta_gradient [--output=FILE] [names ...]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any, Sequence

from benchmarks import arguments
from lpg_distributed.envs import suite
from lpg_distributed.launch import process_environment

_COLUMNS = (  # key, title, format
    ('steps_per_s', 'steps/s', '>9.0f'), ('mflop', 'MFLOP', '>7.2f'),
    ('share_of_gemm', '% best', '>8.1%'),
    ('median_share_of_gemm', '% med', '>8.1%'), ('us', 'us', '>8.2f'),
    ('rule_us', 'rule', '>7.2f'), ('agent_us', 'agent', '>8.2f'),
    ('acting_us', 'acting', '>8.2f'), ('critic_us', 'critic', '>8.2f'),
    ('outer_us', 'outer', '>7.2f'), ('temp_mib', 'MiB/life', '>9.1f'),
    ('peak_rss_mib', 'RSS MiB', '>8.0f'), ('cold_s', 'cold s', '>7.1f'),
    ('warm_s', 'warm s', '>7.1f'))


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
  """Measures one kind; times are in us per environment step."""
  with tempfile.TemporaryDirectory() as cache:
    return _measure(name, args, cache)


def _measure(name, args, cache):
  # JAX is imported after the environment variables are set.
  import jax

  from benchmarks import naive as naive_lib
  from benchmarks import parts
  from benchmarks import timing
  from lpg_distributed import config as config_lib

  num_lifetimes = args.lifetimes
  config = config_lib.Config(
      environments=(name,),
      rule=config_lib.RuleConfig(lstm_size=args.units),
      meta=config_lib.MetaConfig(num_envs=args.envs))
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
  start = time.perf_counter()
  call, compiled, state, compile_again = parts.shard_call(
      config, name, num_lifetimes)
  jax.block_until_ready(state)
  cold_s = time.perf_counter() - start
  jax.clear_caches()
  start = time.perf_counter()
  compile_again()
  warm_s = time.perf_counter() - start
  calls = {'full': call}
  jax.block_until_ready(call())
  peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  if args.naive:
    with naive_lib.naive_rule(config.rule):
      calls['naive'], *_ = parts.shard_call(config, name, num_lifetimes)
  calls |= parts.part_calls(config, name, state)
  measured, gemm = timing.measure(calls, args.repeats, args.budget_s)
  return {
      **_row(config, name, num_lifetimes, measured, gemm),
      'temp_mib': (compiled.memory_analysis().temp_size_in_bytes
                   / num_lifetimes / 2 ** 20),
      'peak_rss_mib': peak_rss, 'cold_s': cold_s, 'warm_s': warm_s}


def _row(config, name: str, num_lifetimes: int, measured, gemm
         ) -> dict[str, Any]:
  """Returns the figures that follow from times and from FLOPs.

  Args:
    config: configuration of the shard.
    name: name of its environment.
    num_lifetimes: number of its lifetimes.
    measured: `timing.Measured` of the whole and of each part, by name.
    gemm: the `timing.Gemm` of the same rounds.
  """
  from benchmarks import timing
  from benchmarks import work

  environment = suite.load(name)
  flops = work.meta_step(
      config, config.agents[name], environment.observation_spec().shape,
      environment.action_spec().num_values)
  update_steps = (num_lifetimes * config.meta.num_envs
                  * config.meta.trajectory_steps)
  steps = update_steps * config.meta.num_updates
  full = measured['full']
  row = {
      'steps_per_s': steps / full.best_s, 'mflop': flops.total / 1e6,
      'share_of_gemm': flops.total * steps / full.best_s / gemm.best,
      'median_share_of_gemm': (
          flops.total * steps / full.median_s / gemm.median),
      'us': 1e6 * full.median_s / steps,
      'rule_share_of_gemm': (
          flops.rule * update_steps / measured['rule'].best_s / gemm.best),
      'rule_median_share_of_gemm': (
          flops.rule * update_steps / measured['rule'].median_s
          / gemm.median),
      'repeats': full.repeats,
      'gemm_best_gflops': gemm.best / 1e9,
      'gemm_median_gflops': gemm.median / 1e9, **timing.machine()}
  for part in ('rule', 'agent', 'acting', 'critic', 'outer'):
    # The outer loss runs once in a meta-step, the other parts K times.
    count = steps if part == 'outer' else update_steps
    row[f'{part}_us'] = 1e6 * measured[part].median_s / count
  if 'naive' in measured:
    row['over_naive'] = measured['naive'].best_s / full.best_s
    row['median_over_naive'] = measured['naive'].median_s / full.median_s
  return row


def _in_a_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
  flags = ('lifetimes', 'units', 'envs', 'repeats', 'budget_s')
  command = [sys.executable, '-m', 'benchmarks.meta_gradient', name, '--child',
             *(f'--{flag}={getattr(args, flag)}' for flag in flags),
             *['--naive'] * args.naive]
  done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser_of_names(__doc__)
  parser.add_argument('--lifetimes', type=arguments.positive, default=16)
  parser.add_argument('--units', type=arguments.positive, default=256,
                      help="units of the rule's LSTM")
  parser.add_argument('--envs', type=arguments.positive, default=64,
                      help='parallel environments of a lifetime')
  parser.add_argument('--repeats', type=arguments.positive, default=10)
  parser.add_argument('--budget_s', type=float, default=60.,
                      help='seconds after which no new round of calls begins')
  parser.add_argument('--naive', action='store_true',
                      help='also time the plain formulation of the rule')
  parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
  args = arguments.parse(parser, argv)
  if args.child:
    print(json.dumps(measure(args.names[0], args)))
    return
  rows = {}
  print(f'{"environment":<25}'
        + ''.join(f'{title:>{fmt[1:].split(".")[0]}}'
                  for _, title, fmt in _COLUMNS))
  for name in args.names:
    row = rows[name] = _in_a_process(name, args)
    print(f'{name:<25}' + ''.join(f'{row[key]:{fmt}}'
                                  for key, _, fmt in _COLUMNS)
          + (f'  over naive {row["over_naive"]:.2f}, medians '
             f'{row["median_over_naive"]:.2f}' if args.naive else ''),
          flush=True)
    # Written after each row, so that an interrupted run keeps its rows.
    arguments.write(args, {
        'lifetimes': args.lifetimes, 'units': args.units, 'envs': args.envs,
        'environments': rows})


if __name__ == '__main__':
  process_environment.ensure(process_environment.WORKER)
  main()
