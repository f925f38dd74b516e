"""The speed of two trees side by side, in one run.

  python -m benchmarks.compare OLD NEW [--measure=meta_step,rule,atari]
    [--environments=chain_short,...] [--pairs=N] [--output=FILE]

OLD and NEW are directories of this repository at two commits. Each pair of
measurements is one of each tree, in fresh processes on one thread, and the
order alternates from pair to pair. The speed-up is OLD's processor time over
NEW's, so above 1 the new tree is faster. It is the median over the pairs, with
the lowest and the highest pair beside it.

Measurements: `meta_step` is a meta-step of one shard; `rule` is the rule and
its gradient; `atari` is all of meta-testing on Breakout, as `benchmarks.atari`
of each tree measures it.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Callable, Mapping, Sequence

from benchmarks import arguments
from lpg_distributed.envs import suite
from lpg_distributed.launch import process_environment

_MEASURES = ('meta_step', 'rule', 'atari')
_ATARI = 'whole_processor_us'  # field in the JSON of `benchmarks.atari`


def _parse_measures(text: str) -> tuple[str, ...]:
  names = tuple(text.split(','))
  for name in names:
    if name not in _MEASURES:
      raise argparse.ArgumentTypeError(
          f'{name!r}; allowed: {", ".join(_MEASURES)}')
  return names


def _parse_environments(text: str) -> tuple[str, ...]:
  for name in text.split(','):
    try:
      suite.check_name(name)
    except ValueError as error:
      raise argparse.ArgumentTypeError(str(error)) from None
  return tuple(text.split(','))


def _parse_tree(text: str) -> str:
  path = os.path.abspath(text)
  if not os.path.isfile(os.path.join(path, 'lpg_distributed', '__init__.py')):
    raise argparse.ArgumentTypeError(
        f'{text} is not a directory of this repository')
  return path


def _run(tree: str, cache: str, arguments_: Sequence[str]) -> str:
  """Runs Python in a tree, on one thread; returns what it prints."""
  variables = {**process_environment.with_packages(process_environment.WORKER),
               'PYTHONPATH': tree, 'JAX_COMPILATION_CACHE_DIR': cache,
               'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  done = subprocess.run(
      [sys.executable, *arguments_], cwd=tree, env={**os.environ, **variables},
      stdout=subprocess.PIPE, text=True, check=False)
  if done.returncode:
    raise SystemExit(f'benchmarks.compare: {tree} failed with code '
                     f'{done.returncode}; its message is above')
  return done.stdout


def _probe(tree: str, cache: str, *request: Any) -> float:
  source = pathlib.Path(__file__).with_name('compare_probe.py').read_text(
      encoding='utf-8')
  return json.loads(_run(tree, cache, ['-c', source, json.dumps(request)])
                    .splitlines()[-1])


def _atari(tree: str, cache: str, seconds: float) -> float:
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'atari.json')
    _run(tree, cache, ['-m', 'benchmarks.atari', '--turns=1', '--threads=1',
                       f'--seconds={seconds}', f'--output={path}'])
    with open(path, encoding='utf-8') as f:
      return json.load(f)[_ATARI]


def compare(old: str, new: str, measure: Callable[[str], float],
            num_pairs: int) -> dict[str, Any]:
  """Measures both trees in turn.

  Args:
    old: the first tree.
    new: the second.
    measure: maps a tree to its microseconds per environment step.
    num_pairs: number of times that each tree is measured.
  """
  times: dict[str, list[float]] = {'old_us': [], 'new_us': []}
  for pair in range(num_pairs):
    order = [('old_us', old), ('new_us', new)]
    for name, tree in order if pair % 2 == 0 else reversed(order):
      times[name].append(measure(tree))
  ratios = [a / b for a, b in zip(*times.values())]
  return {**times, 'speed_ups': ratios,
          'speed_up': statistics.median(ratios),
          'lowest': min(ratios), 'highest': max(ratios)}


def _measurements(args: argparse.Namespace, cache: str
                  ) -> Mapping[str, Callable[[str], float]]:
  """Returns the measuring functions of a tree, by name."""
  found: dict[str, Callable[[str], float]] = {}
  sizes = (args.units, args.envs, args.lifetimes, args.repeats)
  if 'meta_step' in args.measure:
    for name in args.environments:
      found[f'meta_step {name}'] = (
          lambda tree, name=name: _probe(tree, cache, 'meta_step', name,
                                         *sizes))
  if 'rule' in args.measure:
    found['rule'] = lambda tree: _probe(
        tree, cache, 'rule', args.environments[0], *sizes)
  if 'atari' in args.measure:
    found['atari'] = lambda tree: _atari(tree, cache, args.seconds)
  return found


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser(__doc__)
  parser.add_argument('old', type=_parse_tree, metavar='OLD')
  parser.add_argument('new', type=_parse_tree, metavar='NEW')
  parser.add_argument('--measure', type=_parse_measures, default=_MEASURES,
                      help=f'some of {",".join(_MEASURES)} (default: all)')
  parser.add_argument('--environments', type=_parse_environments,
                      default=('tabular_dense', 'random_dense'),
                      help='environments of `meta_step` (default: '
                      'tabular_dense,random_dense)')
  for option, default, text in (
      ('pairs', 5, 'measurements of each tree'),
      ('units', 256, "units of the rule's LSTM"),
      ('envs', 64, 'parallel environments of a lifetime'),
      ('lifetimes', 4, 'lifetimes in the shard'),
      ('repeats', 5, 'calls in a process; the fastest counts')):
    parser.add_argument(f'--{option}', type=arguments.positive,
                        default=default, help=text)
  parser.add_argument('--seconds', type=float, default=5.,
                      help='seconds of Atari in a process')
  args = parser.parse_args(argv)
  rows = {}
  print(f'{"":<36}{"old us":>9}{"new us":>9}{"speed-up":>10}'
        f'{"lowest":>8}{"highest":>9}')
  with tempfile.TemporaryDirectory() as cache:
    for name, measure in _measurements(args, cache).items():
      row = rows[name] = compare(args.old, args.new, measure, args.pairs)
      print(f'{name:<36}{statistics.median(row["old_us"]):>9.2f}'
            f'{statistics.median(row["new_us"]):>9.2f}'
            f'{row["speed_up"]:>10.3f}{row["lowest"]:>8.3f}'
            f'{row["highest"]:>9.3f}', flush=True)
      arguments.write(args, {'units': args.units, 'envs': args.envs,
                             'lifetimes': args.lifetimes,
                             'measurements': rows})


if __name__ == '__main__':
  main()
