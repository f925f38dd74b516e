"""What every entry point shares: flags in, one line for what is wrong."""

import errno
import os
import socket
import sys
import threading
from typing import Callable, Sequence

from absl import flags

from lpg_distributed import errors

_BAD_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LAUNCH_TYPES = ('embedded', 'local_mt', 'local_mp', 'slurm')


class UsageError(errors.UserError, ValueError):
  """A bad command; the message is one line."""


def require(*needed) -> None:
  """Raises UsageError for the first of these flags that has no value."""
  for flag in needed:
    if not flag.value:
      raise UsageError(f'--{flag.name} is missing')


def check_port(host: str, port: int) -> None:
  """Raises UsageError if nothing can listen there."""
  if not 0 <= port < 65536:
    raise UsageError(f'--bandit_port is {port}; allowed: 0 to 65535')
  try:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind((host, port))
  except OSError as error:
    raise UsageError(f'--bandit_host={host} --bandit_port={port} cannot be '
                     f'used: {error.strerror}') from None


def parse_seeds(texts: Sequence[str]) -> tuple[int, ...]:
  """The numbers of `--seeds`."""
  try:
    return tuple(int(text) for text in texts)
  except ValueError:
    raise UsageError(f'--seeds is {",".join(texts)!r}; allowed: whole '
                     'numbers, as 0,1,2') from None


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


def run(main: Callable[[], int], has_flags: bool = True) -> None:
  """Parses flags, calls `main` and exits with what it returns.

  A `UserError`, or a disk that is full or read-only, ends the process with its
  message, in one line, and 2.

  Args:
    main: the command.
    has_flags: False: its arguments are its own matter.
  """
  try:
    code = main() if not has_flags or _parse(main, sys.argv) else 0
  except errors.UserError as error:
    code = errors.report(error)
  except OSError as error:
    if error.errno not in _BAD_DISK:
      raise
    code = errors.report(error)
  sys.stdout.flush()
  sys.stderr.flush()
  if threading.active_count() > 1:
    # Nodes' threads, perhaps inside of XLA or Reverb: Python's orderly
    # shutdown would wait for them or abort.
    os._exit(code)
  sys.exit(code)
