"""What the commands of the figures share: compute, store, draw.

Each figure is a command. With `--rule` it computes and writes `--results`;
without, it only draws what stands there. Figures are always drawn from the
file, so that drawing again gives the same figure.
"""

import argparse
import os
import shlex
import sys
import time
from typing import Any, Callable, Mapping, Optional, Sequence

from lpg_distributed import errors
from lpg_distributed.analysis import stored

Data = Mapping[str, Any]


def say(text: str) -> None:
  """Tells whoever waits what is being done."""
  print(text, file=sys.stderr, flush=True)


def one_thread() -> None:
  """As meta-training has it, unless the user has chosen otherwise.

  Works until JAX has looked for its devices.
  """
  os.environ.setdefault('NPROC', '1')
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=false')


def make_parser(doc: Optional[str], name: str, seed: bool = True
                ) -> argparse.ArgumentParser:
  """A parser with what all figures have; `seed` of those that draw numbers."""
  parser = argparse.ArgumentParser(
      description=doc, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument(
      '--results', default=f'runs/{name}.json', metavar='FILE',
      help='where results are, or shall be; default: %(default)s')
  parser.add_argument(
      '--figure', metavar='FILE', help='default: beside the results, .png')
  if seed:
    parser.add_argument('--seed', type=int, default=0,
                        help='of layouts, agents and actions')
  return parser


def split(text: str) -> tuple[str, str]:
  """`[LABEL=]PLACE` as (label, place); '' for a label that is not there.

  A place with an equals sign in it needs a label.
  """
  label, sign, place = text.partition('=')
  return (label, place) if sign else ('', text)


def add_rules(parser: argparse.ArgumentParser) -> None:
  """Adds how the rules are named."""
  parser.add_argument(
      '--rule', '--run', action='append', default=[], dest='rule',
      metavar='[LABEL=]PLACE', help='a run\'s directory, a file, or the name '
      'of a published rule; many times.\nWithout, what the results hold is '
      'drawn')
  parser.add_argument('--average_last', type=int, default=1, metavar='N',
                      help='of a run: the mean of its last N snapshots')


def only_rule(args: argparse.Namespace, flag: str = '--rule') -> str:
  """What `flag` names, if it is there once; ResultsError if more often."""
  if len(args.rule) != 1:
    raise stored.ResultsError(f'{flag} is there {len(args.rule)} times; '
                              'allowed: once')
  return args.rule[0]


def add_counts(parser: argparse.ArgumentParser,
               counts: Mapping[str, tuple[int, str]]) -> None:
  """Adds flags that are whole numbers, with their defaults."""
  for name, (default, text) in counts.items():
    parser.add_argument(f'--{name}', type=int, default=default, metavar='N',
                        help=f'{text}; default: %(default)s')


def check_counts(args: argparse.Namespace, names: Sequence[str],
                 low: int = 1) -> None:
  """Raises ResultsError if one of them is less than `low`."""
  for name in names:
    if getattr(args, name) < low:
      raise stored.ResultsError(f'--{name} is {getattr(args, name)}; allowed: '
                                f'{low} or more')


def run(parser: argparse.ArgumentParser, argv: Optional[Sequence[str]],
        experiment: str,
        compute: Callable[[argparse.Namespace], tuple[Data, Data]],
        draw: Callable[[Data, Data], Any],
        lines: Callable[[Data, Data], Sequence[str]]) -> int:
  """Computes if rules are named, draws and prints.

  Args:
    parser: of the command.
    argv: its arguments; None: the process's.
    experiment: what results of this kind are called.
    compute: the flags to (`about`, `data`), see `stored`.
    draw: these to a matplotlib figure.
    lines: these to what is printed.

  Returns:
    The exit code; an error that a user can mend is one line and 2.
  """
  args = parser.parse_args(argv)
  try:
    if args.rule:
      one_thread()
      command = 'python -m ' + shlex.join(
          [f'lpg_distributed.analysis.{experiment}',
           *(sys.argv[1:] if argv is None else argv)])
      about, data = compute(args)
      minutes = round(time.process_time() / 60., 2)
      stored.save(args.results, experiment, {
          **about, 'command': command, 'process_minutes': minutes}, data)
    about, data = stored.load(args.results, experiment)
    for line in lines(about, data):
      print(line)
    from lpg_distributed.figures import style  # Brings matplotlib.
    path = args.figure or os.path.splitext(args.results)[0] + '.png'
    try:
      os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
      draw(about, data).savefig(path, dpi=style.DPI)
    except (OSError, ValueError) as error:  # No such place, no such format.
      raise stored.ResultsError(f'{path} cannot be drawn: {error}') from None
    print(f'figure: {os.path.relpath(path)}')
  except errors.UserError as error:
    return errors.report(error)
  return 0
