"""Errors that the user can fix."""

import sys


class UserError(Exception):
  """An error that the user can fix.

  The message says in one line what is wrong and what is allowed.
  """


class ArgumentError(UserError, ValueError):
  """A bad argument of the Python interface; the message is one line."""


def printable(text: str) -> str:
  """Escapes control characters, which a terminal would interpret."""
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def report(error: UserError) -> int:
  """Prints an error as one line and returns the exit code, 2."""
  print(f'error: {printable(" ".join(str(error).split()))}', file=sys.stderr)
  return 2
