"""Options and output that all benchmarks' command lines share."""

import argparse
import json
from typing import Any, Sequence

from lpg_distributed.envs import suite


def positive(text: str) -> int:
  """Parses a whole number from 1 on; a `type` for `add_argument`."""
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError('must be at least 1')
  return value


def make_parser(doc: str) -> argparse.ArgumentParser:
  """Returns a parser with the option `--output`.

  Args:
    doc: docstring of the benchmark; its first line is the description.
  """
  parser = argparse.ArgumentParser(description=doc.split('\n', 1)[0])
  parser.add_argument('--output', help='also write the measurements, as JSON')
  return parser


def make_parser_of_names(doc: str) -> argparse.ArgumentParser:
  """Returns a parser with `--output` and names of environments; see `parse`."""
  parser = make_parser(doc)
  parser.add_argument('names', nargs='*', metavar='name',
                      help='environments (default: all)')
  return parser


def parse(parser: argparse.ArgumentParser,
          argv: Sequence[str] | None) -> Any:
  """Parses arguments and checks the names of environments.

  No name means all environments. An unknown one ends the program with a line
  that lists those that exist.
  """
  args = parser.parse_args(argv)
  try:
    for name in args.names:
      suite.check_name(name)
  except ValueError as error:
    parser.error(str(error))
  args.names = args.names or list(suite.ENVIRONMENTS)
  return args


def write(args: argparse.Namespace, measurements: Any) -> None:
  """Writes the measurements to the file `--output`, if it is given."""
  if args.output:
    with open(args.output, 'w', encoding='utf-8') as f:
      json.dump(measurements, f, indent=2)
      f.write('\n')
