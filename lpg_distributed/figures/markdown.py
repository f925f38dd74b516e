"""Formats tables in Markdown."""

from typing import Iterable, Sequence


def _line(cells: Sequence[str]) -> str:
  escaped = (cell.replace('|', '\\|') for cell in cells)
  return '| ' + ' | '.join(escaped) + ' |'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  """Returns the lines of a Markdown table.

  Raises:
    ValueError: a row is longer or shorter than the head.
  """
  result = [_line(head), '|' + '---|' * len(head)]
  for row in rows:
    if len(row) != len(head):
      raise ValueError(f'a row has {len(row)} cells and the head {len(head)}')
    result.append(_line(row))
  return result
