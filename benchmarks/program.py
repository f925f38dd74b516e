"""Measures whole runs: speed, memory of all processes, time to the first step.

Launches `lpg meta-train` with real processes and Reverb, and watches it.
The names select measurements (default: all but `paper`):

  mixture   all fifteen kinds at the paper's shapes, 30 lifetimes in all, split
            by share and by cost, in turn
  layout    one kind with a table, as 2 workers of 1 thread and as 1 worker of
            2 threads, in turn
  start     the `laptop` preset from its start to its first meta-step, with a
            filled compilation cache
  paper     one meta-step of the `paper` preset: 960 lifetimes (minutes to an
            hour)

From the repository's root:

  python -m benchmarks.program [--output=FILE] [--meta_steps=N]
    [--repeats=N] [--flags='FLAG ...'] [names ...]

`--flags` are further flags of `lpg meta-train`; of a repeated flag the last
value counts.
"""

import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Mapping, NamedTuple, Sequence

from benchmarks import arguments
from lpg_distributed.store import loggers

_POLL_S = 0.2
_PAGE_MIB = os.sysconf('SC_PAGE_SIZE') / 2 ** 20
_TICK_S = 1 / os.sysconf('SC_CLK_TCK')
_QUIET = ('--noevaluate', '--set=evaluator.enabled=False')
_PAPER_SHAPES = ('--preset=paper', *_QUIET, '--num_workers=2')
_Variant = tuple[tuple[str, ...], Mapping[str, str]]
_LAYOUT = (*_PAPER_SHAPES, '--set=environments=tabular_dense',
           '--set=meta.num_lifetimes=32')
_LAYOUTS: Mapping[str, _Variant] = {
    '1 worker x 2 threads': (
        ('--num_workers=1', '--set=run.lifetimes_per_shard=32'),
        # Environment variables that let the worker use both processors.
        {'NPROC': '2', 'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=true'}),
    '2 workers x 1 thread': ((), {}),
}
_MIXTURE = (*_PAPER_SHAPES, '--set=meta.num_lifetimes=30')
_MIXTURES: Mapping[str, _Variant] = {
    f'lifetimes by {by}': ((f'--set=lifetimes_by={by}',), {})
    for by in ('share', 'cost')}


class _Usage(NamedTuple):
  """Resources that a process has used."""
  rss_mib: float
  processor_s: float


def _usage_of_tree(pid: int) -> dict[int, _Usage]:
  """Returns the usage of a process and of all its descendants, by number."""
  parents, found = {}, {}
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      stat = (path / 'stat').read_text().rsplit(')', 1)[1].split()
    except OSError:  # The process has just ended.
      continue
    parents[int(path.name)] = int(stat[1])
    found[int(path.name)] = _Usage(
        _PAGE_MIB * int(stat[21]), _TICK_S * (int(stat[11]) + int(stat[12])))

  def belongs(process):
    while process in parents:
      if process == pid:
        return True
      process = parents[process]
    return False

  return {n: usage for n, usage in found.items() if belongs(n)}


def _busiest_process_s(marks: Sequence[tuple[int, dict[int, _Usage]]]
                       ) -> float | None:
  """Processor time of the busiest process in a meta-step after the first.

  Args:
    marks: numbers of meta-steps that were done, and the usage at that time.
  """
  if len(marks) < 2:
    return None
  (first, before), (last, after) = marks[0], marks[-1]
  return max(usage.processor_s - before[n].processor_s
             for n, usage in after.items() if n in before) / (last - first)


def run(flags: Sequence[str], meta_steps: int,
        variables: Mapping[str, str] | None = None) -> dict[str, Any]:
  """Starts a new run, waits for its end and returns its measurements.

  The first meta-step includes compilation, so speeds leave it out.

  Args:
    flags: flags of `lpg meta-train`.
    meta_steps: number of meta-steps.
    variables: environment variables to add.

  Raises:
    RuntimeError: the run failed; the message has the end of its output.
  """
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'run')
    command = [sys.executable, '-m', 'launch.meta_train', f'--run_dir={path}',
               *flags, f'--meta_steps={meta_steps}']
    begin = time.monotonic()
    with open(os.path.join(directory, 'output'), 'w+', encoding='utf-8') as f:
      process = subprocess.Popen(command, stdout=f, stderr=f,
                                 env={**os.environ, **(variables or {})})
      peak_mib, first_s, marks = 0., None, []
      try:
        while process.poll() is None:
          usage = _usage_of_tree(process.pid)
          peak_mib = max(peak_mib, sum(u.rss_mib for u in usage.values()))
          rows = (sum(1 for _ in loggers.read_metrics(path, 'learner'))
                  if os.path.isdir(path) else 0)
          first_s = first_s or (time.monotonic() - begin if rows else None)
          if rows > (marks[-1][0] if marks else 0):
            marks.append((rows, usage))
          time.sleep(_POLL_S)
      finally:
        if process.poll() is None:
          process.terminate()
          process.wait()
      if process.returncode:
        f.seek(0)
        raise RuntimeError(f'{" ".join(command)} ended with code '
                           f'{process.returncode}:\n{f.read()[-2000:]}')
    rows = list(loggers.read_metrics(path, 'learner'))
  speeds = [row['env_steps_per_s'] for row in rows[1:]]
  return {
      'first_step_s': first_s or time.monotonic() - begin,
      'peak_rss_mib': peak_mib, 'meta_steps': len(rows),
      'env_steps': rows[-1]['env_steps'],
      'step_s': [row['step_s'] for row in rows],
      'best_env_steps_per_s': max(speeds, default=None),
      'busiest_process_s': _busiest_process_s(marks),
      'median_env_steps_per_s': statistics.median(speeds) if speeds else None,
      'load_1min': os.getloadavg()[0]}


def _show(name: str, row: Mapping[str, Any]) -> None:
  speed = (f'{row["best_env_steps_per_s"]:,.0f} steps/s at best, '
           f'{row["median_env_steps_per_s"]:,.0f} median, '
           if row['best_env_steps_per_s'] else '')
  if row['busiest_process_s']:
    speed += f'busiest process {row["busiest_process_s"]:.2f} s a meta-step, '
  print(f'{name:<24}{speed}first step after {row["first_step_s"]:.1f} s, '
        f'peak RSS {row["peak_rss_mib"] / 1024:.2f} GiB, load '
        f'{row["load_1min"]:.1f}', flush=True)


def _in_turn(base: Sequence[str], variants: Mapping[str, _Variant],
             meta_steps: int, repeats: int,
             further: Sequence[str]) -> dict[str, Any]:
  """Runs two variants in turn; the ratio is that of the best of all repeats."""
  runs = {name: [] for name in variants}
  for _ in range(repeats):
    for name, (flags, variables) in variants.items():
      runs[name].append(run((*base, *flags, *further), meta_steps, variables))
      _show(name, runs[name][-1])
  first, second = (max(row['best_env_steps_per_s'] or 0. for row in rows)
                   for rows in runs.values())
  ratio = second / first if first else None
  print('{1} over {0}:'.format(*variants), f'{ratio:.2f}' if ratio else '-')
  return {'runs': runs, 'ratio': ratio}


def measure(name: str, meta_steps: int, repeats: int = 2,
            further: Sequence[str] = ()) -> dict[str, Any]:
  """Runs one measurement; `further` flags are passed to `lpg meta-train`."""
  if name == 'layout':
    return _in_turn(_LAYOUT, _LAYOUTS, meta_steps, repeats, further)
  if name == 'mixture':
    return _in_turn(_MIXTURE, _MIXTURES, meta_steps, repeats, further)
  if name == 'start':
    flags = ('--preset=laptop', '--num_workers=2', *_QUIET, *further)
    run(flags, 1)  # Fills the cache.
    row = run(flags, 1)
  else:
    row = run((*_PAPER_SHAPES, *further), 1)
  _show(name, row)
  return row


def main(argv: Sequence[str] | None = None) -> None:
  settings = ('layout', 'mixture', 'start', 'paper')
  parser = arguments.make_parser(__doc__)
  parser.add_argument('names', nargs='*', metavar='name',
                      help=', '.join(settings))
  parser.add_argument('--meta_steps', type=arguments.positive, default=5)
  parser.add_argument('--repeats', type=arguments.positive, default=2,
                      help='runs of each variant of mixture and layout')
  parser.add_argument('--flags', type=shlex.split, default=[],
                      help='further flags of lpg meta-train')
  args = parser.parse_args(argv)
  for name in args.names:
    if name not in settings:
      parser.error(f'there is no measurement {name!r}; allowed: '
                   f'{", ".join(settings)}')
  results = {}
  for name in args.names or settings[:-1]:
    results[name] = measure(name, args.meta_steps, args.repeats,
                            args.flags)
    arguments.write(args, results)


if __name__ == '__main__':
  main()
