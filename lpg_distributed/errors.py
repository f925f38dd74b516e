"""Errors that are the user's to mend."""

import sys


class UserError(Exception):
  """The message says in one line what is wrong and what is allowed."""


def report(error: UserError) -> int:
  """Prints an error as one line; returns the exit code that goes with it."""
  print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
  return 2
