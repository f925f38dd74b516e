"""What every entry point shares: flags in, one line for what is wrong."""

import os
import socket
import sys
import threading
from typing import Callable

from absl import flags

from lpg_distributed import errors

LAUNCH_TYPES = ('embedded', 'local_mt', 'local_mp')


class UsageError(errors.UserError, ValueError):
  """A bad command; the message is one line."""


def check_port(port: int) -> None:
  """Raises UsageError if nothing can listen there."""
  if not 0 <= port < 65536:
    raise UsageError(f'--bandit_port is {port}; allowed: 0 to 65535')
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(('', port))
    except OSError as error:
      raise UsageError(f'--bandit_port={port} cannot be used: '
                       f'{error.strerror}') from None


def _parse(main: Callable[[], int], arguments: list[str]) -> bool:
  """Reads the flags; False if help was asked for, and given."""
  if any(a in ('--help', '-help', '-h') for a in arguments[1:]):
    module = sys.modules[main.__module__]
    print(module.__doc__)
    print(flags.FLAGS.module_help(module))
    return False
  try:
    rest = flags.FLAGS(arguments)[1:]
  except flags.Error as error:
    raise UsageError(f'{error}; --help shows all flags') from None
  if rest:
    raise UsageError(f'{rest[0]!r} is no flag; allowed: --name=value')
  return True


def run(main: Callable[[], int]) -> None:
  """Parses flags, calls `main` and exits with what it returns.

  A `UserError` ends the process with its message, in one line, and 2.
  """
  try:
    code = main() if _parse(main, sys.argv) else 0
  except errors.UserError as error:
    print('error: ' + ' '.join(str(error).split()), file=sys.stderr)
    code = 2
  sys.stdout.flush()
  sys.stderr.flush()
  if threading.active_count() > 1:
    # Nodes' threads, perhaps inside of XLA or Reverb: Python's orderly
    # shutdown would wait for them or abort.
    os._exit(code)
  sys.exit(code)
