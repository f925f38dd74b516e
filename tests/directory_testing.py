"""What tests of files share."""

import os


def contents(path):
  """Everything below a path, with what files hold."""
  found = {}
  for directory, _, names in os.walk(path):
    found[directory] = None
    for name in names:
      with open(os.path.join(directory, name), 'rb') as f:
        found[os.path.join(directory, name)] = f.read()
  return found
