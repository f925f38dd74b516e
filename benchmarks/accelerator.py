"""Measures correctness and speed on this machine's accelerator.

  python -m benchmarks.accelerator [--output=FILE.json] [--markdown=FILE.md]
    [--precision=highest] [--budget_s=450] [names ...]

Needs the light installation only. It runs on JAX's default device: a GPU, a
TPU or, at small sizes, a CPU.

1. Correctness: two meta-steps of each kind are compared with the CPU. The
   relative error of gradients, of the loss and of the state must stay below the
   tolerance of the chosen precision.
2. Speed of each kind at the paper's size, then of one meta-step of all kinds:
   all shards are dispatched at once, and the host waits once.
3. Speed by the rule's units and by lifetimes in a shard.

After `--budget_s` seconds no measurement begins; the report counts those that
were left out. The exit code is 1 if a kind is not correct.
"""

from concurrent import futures
import os
import sys
import time
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from benchmarks import arguments
from benchmarks import device_checks
from benchmarks import work
from lpg_distributed import config as config_lib
from lpg_distributed.envs import suite

# Peak TFLOP/s as published by the makers, by a part of the device's name:
# float32 (`highest`) and reduced precision (`high` and `default` on a GPU:
# TF32).
_PEAKS: Mapping[str, tuple[float, Optional[float]]] = {
    'H200': (67., 495.), 'H100': (67., 495.), 'A100': (19.5, 156.),
    'L4': (30.3, 60.), 'V100': (15.7, None), 'T4': (8.1, None),
    'TPU v4': (275. / 6, None), 'TPU v5 lite': (197. / 6, None)}
_GRID_KIND = 'tabular_dense'


class Size(NamedTuple):
  """Sizes of one program."""
  name: str  # environment kind
  units: int
  envs: int
  lifetimes: int


class Deadline:
  """Measures the time since its creation against a budget."""

  def __init__(self, budget_s: float):
    self._begin, self._budget_s = time.monotonic(), budget_s

  def passed(self) -> bool:
    return self.seconds() > self._budget_s

  def seconds(self) -> float:
    return time.monotonic() - self._begin


def _best_s(call, repeats: int) -> float:
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    call()
    times.append(time.perf_counter() - start)
  return min(times)


def gemm_flops_per_s(size: int, precision: str, repeats: int = 5) -> float:
  """Returns the FLOP/s of square matrix products, eight in a chain."""
  import jax
  import jax.numpy as jnp

  def chain(a, b):
    with jax.default_matmul_precision(precision):
      for _ in range(8):
        a = a @ b
    return a

  a = jnp.full((size, size), 1. / size)
  product = jax.jit(chain)
  product(a, a).block_until_ready()
  return 8 * 2. * size ** 3 / _best_s(
      lambda: product(a, a).block_until_ready(), repeats)


class Program:
  """A shard's compiled meta-step and its state on the device."""

  def __init__(self, size: Size, precision: str):
    import jax
    import numpy as np

    from lpg_distributed.core import lifetime
    from lpg_distributed.core import rule_vector
    self.size = size
    config = config_lib.Config(
        environments=(size.name,),
        rule=config_lib.RuleConfig(lstm_size=size.units),
        meta=config_lib.MetaConfig(num_envs=size.envs,
                                   num_lifetimes=size.lifetimes),
        run=config_lib.RunConfig(matmul_precision=precision))
    environment = suite.load(size.name)
    self.steps = size.lifetimes * config.meta.window_env_steps
    self.flops = self.steps * work.meta_step(
        config, config.agents[size.name],
        environment.observation_spec().shape,
        environment.action_spec().num_values).total
    shard = lifetime.make_shard(config, size.name, size.lifetimes,
                                jax.default_backend())
    self.eta = jax.device_put(rule_vector.ravel(
        rule_vector.init(config.rule, jax.random.PRNGKey(0))))
    self._arms = np.zeros(len(config.agents[size.name].arms), np.float32)
    self._shard_id = lifetime.ShardId(*map(
        np.int32, (0, 0, 0, size.lifetimes)))
    self._state, self._step = jax.device_put(shard.empty()), 0
    # The new state takes the place of the old one.
    donated = () if jax.default_backend() == 'cpu' else (2,)
    start = time.monotonic()
    self._advance = jax.jit(shard.advance, donate_argnums=donated).lower(
        self.eta, self._arms, self._state, self._shard_id,
        np.int32(0)).compile()
    self.compile_s = time.monotonic() - start
    self.temporaries_mib = (
        self._advance.memory_analysis().temp_size_in_bytes / 2 ** 20)

  def dispatch(self):
    """Starts a meta-step; returns its gradient without waiting for it."""
    import numpy as np
    gradient, self._state, _ = self._advance(
        self.eta, self._arms, self._state, self._shard_id,
        np.int32(self._step))
    self._step += 1
    return gradient

  def measure(self, repeats: int) -> dict[str, Any]:
    """Times the meta-step; returns a row of the table."""
    run = lambda: self.dispatch().block_until_ready()
    run()  # The first meta-step also draws all lifetimes.
    best_s = _best_s(run, repeats)
    return {**self.size._asdict(), 'steps_per_s': self.steps / best_s,
            'ms': 1e3 * best_s, 'tflop_per_s': self.flops / best_s / 1e12,
            'temporaries_mib': self.temporaries_mib,
            'compile_s': self.compile_s}


def _num_threads() -> int:
  """Returns the number of threads to compile with.

  Compilation takes most of this command's time.
  """
  return max(1, min(8, (os.cpu_count() or 2) // 2))


def build(sizes: Sequence[Size], precision: str,
          deadline: Deadline) -> list[Program]:
  """Compiles programs until the deadline, but at least one."""
  def make(size):
    if size is not sizes[0] and deadline.passed():
      return None
    return Program(size, precision)

  with futures.ThreadPoolExecutor(_num_threads()) as pool:
    return [program for program in pool.map(make, sizes) if program]


def check(names: Sequence[str], args: Any,
          deadline: Deadline) -> dict[str, dict[str, Any]]:
  """Part 1: computes errors by kind until the deadline, but at least one."""
  tolerance = device_checks.TOLERANCES[args.precision]
  rows: dict[str, dict[str, Any]] = {}
  sizes = (args.check_units, args.check_envs)

  def compute(name):
    if name != names[0] and deadline.passed():
      return None
    return device_checks.compute(name, args.precision, *sizes)

  with (device_checks.cpu_results(names, *sizes, _num_threads()) as expected,
        futures.ThreadPoolExecutor(_num_threads()) as pool):
    for name, found in zip(names, pool.map(compute, names)):
      if found is None:
        expected[name].cancel()
        continue
      errors = device_checks.errors(found, expected[name].result())
      rows[name] = {**errors._asdict(), 'tolerance': tolerance,
                    'correct': max(errors) <= tolerance}
      print(f'{name:<25} gradient {errors.gradient:.1e}, state '
            f'{errors.values:.1e}, loss {errors.loss:.1e}, allowed '
            f'{tolerance:g}: {"ok" if rows[name]["correct"] else "WRONG"}',
            flush=True)
  return rows


def whole_meta_step(programs: Sequence[Program], repeats: int
                    ) -> dict[str, Any]:
  """Part 2: times all shards, the gradients' sum and the meta-update."""
  import jax
  import jax.numpy as jnp

  from lpg_distributed.core import meta_update
  lifetimes = sum(program.size.lifetimes for program in programs)
  config = config_lib.Config(rule=config_lib.RuleConfig(
      lstm_size=programs[0].size.units))
  update = jax.jit(lambda state, total: meta_update.apply(
      config.meta, state, total, jnp.float32(lifetimes)))
  state = meta_update.init(config)

  def run():
    nonlocal state
    total = sum(program.dispatch() for program in programs)
    state, *_ = update(state, total)
    for program in programs:
      program.eta = state.eta
    jax.block_until_ready(state)

  run()
  best_s = _best_s(run, repeats)
  steps = sum(program.steps for program in programs)
  return {'kinds': len(programs), 'lifetimes': lifetimes, 's': best_s,
          'steps_per_s': steps / best_s, 'tflop_per_s': sum(
              program.flops for program in programs) / best_s / 1e12}


def _peak(kind: str, precision: str) -> Optional[float]:
  for part, (full, reduced) in _PEAKS.items():
    if part in kind:
      return full if precision == 'highest' else reduced
  return None


def _peak_memory_gib() -> Optional[float]:
  import jax
  stats = jax.devices()[0].memory_stats() or {}
  found = stats.get('peak_bytes_in_use')
  return None if found is None else found / 2 ** 30


def measure(args: Any) -> dict[str, Any]:
  """Runs all parts in order; returns the report."""
  import jax
  deadline = Deadline(args.budget_s)
  device = jax.devices()[0]
  report: dict[str, Any] = {
      'device': device.device_kind, 'platform': device.platform,
      'devices': jax.device_count(), 'jax': jax.__version__,
      'python': sys.version.split()[0], 'precision': args.precision,
      'processors': os.cpu_count()}
  report['gemm_tflop_per_s'] = gemm_flops_per_s(
      args.gemm, args.precision) / 1e12
  report['peak_tflop_per_s'] = _peak(device.device_kind, args.precision)
  report['correctness'] = check(args.names, args, deadline)

  rows: list[dict[str, Any]] = []
  report['speed'] = rows

  def measure_one(program: Program) -> None:
    row = program.measure(args.repeats)
    row['share_of_gemm'] = row['tflop_per_s'] / report['gemm_tflop_per_s']
    row['share_of_peak'] = (
        row['tflop_per_s'] / report['peak_tflop_per_s']
        if report['peak_tflop_per_s'] else None)
    rows.append(row)
    print(_row(row), flush=True)

  programs = build([Size(name, args.units, args.envs, args.lifetimes)
                    for name in args.names], args.precision, deadline)
  for program in programs:
    measure_one(program)
  report['meta_step'] = whole_meta_step(programs, args.repeats)
  programs.clear()  # Frees the device's memory.
  grid = [Size(_GRID_KIND, units, args.envs, lifetimes)
          for units in args.grid_units for lifetimes in args.grid_lifetimes]
  if grid and not deadline.passed():
    for program in build(grid, args.precision, deadline):
      measure_one(program)
  report['peak_memory_gib'] = _peak_memory_gib()
  report['seconds'] = deadline.seconds()
  report['left_out'] = (2 * len(args.names) + len(grid) - len(rows)
                        - len(report['correctness']))
  return report


_HEAD = ('kind', 'units', 'environments', 'lifetimes', 'steps/s', 'ms',
         'TFLOP/s', 'of GEMM', 'of peak', 'temporaries MiB', 'compile s')


def _row(row: Mapping[str, Any]) -> str:
  peak = row['share_of_peak']
  return (f'| `{row["name"]}` | {row["units"]} | {row["envs"]} | '
          f'{row["lifetimes"]} | {row["steps_per_s"]:,.0f} | '
          f'{row["ms"]:.1f} | {row["tflop_per_s"]:.3f} | '
          f'{row["share_of_gemm"]:.2f} | '
          f'{"" if peak is None else f"{peak:.2f}"} | '
          f'{row["temporaries_mib"]:.0f} | {row["compile_s"]:.0f} |')


def markdown(report: Mapping[str, Any]) -> str:
  """Formats the report as a section of Markdown."""
  whole, memory = report['meta_step'], report['peak_memory_gib']
  lines = [
      f'## {report["devices"]} x {report["device"]}, JAX '
      f'{report["jax"]}, Python {report["python"]}', '',
      f'Precision `{report["precision"]}`. Matrix product (GEMM): '
      f'{report["gemm_tflop_per_s"]:.2f} TFLOP/s.', '',
      f'A meta-step of {whole["lifetimes"]} lifetimes of {whole["kinds"]} '
      f'kinds takes {whole["s"]:.3f} s: {whole["steps_per_s"]:,.0f} steps/s, '
      f'{whole["tflop_per_s"]:.3f} TFLOP/s.'
      + ('' if memory is None else f' Peak memory: {memory:.2f} GiB.'), '',
      '| ' + ' | '.join(_HEAD) + ' |', '|---' * len(_HEAD) + '|',
      *map(_row, report['speed']), '',
      'Relative errors against the CPU:', '',
      '| kind | gradient | state | loss | allowed | |', '|---' * 6 + '|',
      *(f'| `{name}` | {row["gradient"]:.1e} | {row["values"]:.1e} | '
        f'{row["loss"]:.1e} | {row["tolerance"]:g} | '
        f'{"ok" if row["correct"] else "**wrong**"} |'
        for name, row in report['correctness'].items()), '']
  if report['left_out']:
    count = report['left_out']
    lines += [f'{count} measurement{" was" if count == 1 else "s were"} left '
              'out: the time budget was spent.', '']
  return '\n'.join(lines)


def _parse_counts(text: str) -> tuple[int, ...]:
  return tuple(arguments.positive(part) for part in text.split(',') if part)


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser_of_names(__doc__)
  parser.add_argument('--markdown', help='also write a table, as Markdown')
  parser.add_argument('--precision', choices=config_lib.MATMUL_PRECISIONS,
                      default='highest')
  parser.add_argument('--budget_s', type=float, default=450.,
                      help='seconds after which no measurement begins')
  for option, default, text in (
      ('units', 256, "units of the rule's LSTM"),
      ('envs', 64, 'parallel environments of a lifetime'),
      ('lifetimes', 64, 'lifetimes of each kind'),
      ('repeats', 3, 'calls, of which the fastest counts'),
      ('gemm', 4096, 'rows and columns of the matrix product'),
      ('check_units', 32, 'as --units, for the check of correctness'),
      ('check_envs', 8, 'as --envs, for the check of correctness')):
    parser.add_argument(f'--{option}', type=arguments.positive,
                        default=default, help=text)
  parser.add_argument('--grid_units', type=_parse_counts, default=(32, 256))
  parser.add_argument('--grid_lifetimes', type=_parse_counts,
                      default=(16, 256))
  args = arguments.parse(parser, argv)
  report = measure(args)
  table = markdown(report)
  print('\n' + table)
  arguments.write(args, report)
  if args.markdown:
    with open(args.markdown, 'w', encoding='utf-8') as f:
      f.write(table)
  wrong = [name for name, row in report['correctness'].items()
           if not row['correct']]
  if wrong:
    sys.exit(f'benchmarks.accelerator: not correct: {", ".join(wrong)}')


if __name__ == '__main__':
  main()
