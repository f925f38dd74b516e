"""Errors that are the user's to mend."""


class UserError(Exception):
  """The message says in one line what is wrong and what is allowed."""
