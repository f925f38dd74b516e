"""Errors that are the user's to mend."""

import sys


class UserError(Exception):
  """The message says in one line what is wrong and what is allowed."""


def printable(text: str) -> str:
  """Escapes what a terminal would obey instead of showing it."""
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def report(error: UserError) -> int:
  """Prints an error as one line; returns the exit code that goes with it."""
  print(f'error: {printable(" ".join(str(error).split()))}', file=sys.stderr)
  return 2
