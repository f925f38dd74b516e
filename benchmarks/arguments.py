"""What the benchmarks' command lines share."""

import argparse
import json
from typing import Any, Sequence

from lpg_distributed.envs import suite


def positive(text: str) -> int:
  """A type for `add_argument`."""
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError('must be at least 1')
  return value


def make_parser(doc: str) -> argparse.ArgumentParser:
  """With the file for the figures."""
  parser = argparse.ArgumentParser(description=doc.split('\n', 1)[0])
  parser.add_argument('--output', help='also write the figures, as JSON')
  return parser


def make_parser_of_names(doc: str) -> argparse.ArgumentParser:
  """As `make_parser`, with the names of environments; see `parse`."""
  parser = make_parser(doc)
  parser.add_argument('names', nargs='*', metavar='name',
                      help='environments (default: all)')
  return parser


def parse(parser: argparse.ArgumentParser,
          argv: Sequence[str] | None) -> Any:
  """The arguments, their names checked; ends with a line if one is wrong."""
  args = parser.parse_args(argv)
  try:
    for name in args.names:
      suite.check_name(name)
  except ValueError as error:
    parser.error(str(error))
  args.names = args.names or list(suite.ENVIRONMENTS)
  return args


def write(args: argparse.Namespace, figures: Any) -> None:
  """Writes the figures where `--output` says, if it does."""
  if args.output:
    with open(args.output, 'w', encoding='utf-8') as f:
      json.dump(figures, f, indent=2)
      f.write('\n')
