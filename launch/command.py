"""Shared by all commands: reads flags and reports errors in one line."""

import errno
import importlib.util
import os
import shlex
import signal
import socket
import sys
import threading
from typing import Callable, Optional, Sequence

from absl import flags

from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed import former_names
from lpg_distributed.launch import stopping
from lpg_distributed.launch import streams

_BAD_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LAUNCH_TYPES = ('embedded', 'local_mt', 'local_mp', 'slurm')


class UsageError(errors.UserError, ValueError):
  """The command cannot be run; the message is one line."""


def warn(text: str) -> None:
  """Prints a warning in one line."""
  print(f'warning: {errors.printable(text)}', file=sys.stderr, flush=True)


def require(*needed) -> None:
  """Raises UsageError for the first of these flags that has no value."""
  for flag in needed:
    if not flag.value:
      raise UsageError(f'--{flag.name} is missing')


def require_launchpad(what: str, allowed: str = '') -> None:
  """Raises UsageError if Launchpad is not installed.

  Args:
    what: needs it.
    allowed: does without it.
  """
  if importlib.util.find_spec('launchpad') is None:
    raise UsageError(
        f'{what} needs Launchpad, which is not installed here; allowed: '
        f'{allowed + ", or " if allowed else ""}on Python 3.10, in a checkout: '
        'pip install ".[launchpad]"')


def check_port(host: str, port: int) -> None:
  """Raises UsageError if no server can listen on this port."""
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
  """Parses the value of `--seeds`."""
  try:
    seeds = tuple(int(text) for text in texts)
  except ValueError:
    raise UsageError(f'--seeds is {",".join(texts)!r}; allowed: whole '
                     'numbers, as 0,1,2') from None
  for seed in seeds:
    fields.SEED.check('--seeds', seed)
  return seeds


def as_typed(name: str) -> str:
  """Returns the running command as a line for a shell.

  Args:
    name: the subcommand of `lpg`, such as meta-train.
  """
  return shlex.join(['lpg', name, *sys.argv[1:]])


def _parse(main: Callable[[], int], arguments: Sequence[str],
           flag_values: flags.FlagValues) -> bool:
  """Parses the flags; returns False if it printed help instead."""
  if any(a in ('--help', '-help', '-h') for a in arguments[1:]):
    module = sys.modules[main.__module__]
    print(module.__doc__)
    # Without the module's name, which is the first line.
    print('Flags:\n' + flag_values.module_help(module).lstrip().partition(
        '\n')[2])
    return False
  try:
    rest = flag_values(arguments)[1:]
  except flags.Error as error:
    name = getattr(error, 'flagname', '')
    today = former_names.today(name)
    renamed = today != name and today in flag_values
    hint = f'it is now --{today}; ' if renamed else ''
    raise UsageError(f'{error}; {hint}--help shows all flags') from None
  if rest:
    raise UsageError(f'{rest[0]!r} is no flag; allowed: --name=value')
  return True


def call(main: Callable[[], int], arguments: Sequence[str],
         flag_values: Optional[flags.FlagValues] = flags.FLAGS) -> int:
  """Parses flags, calls `main` and returns the exit code.

  A `UserError`, or a disk that is full or read-only, is printed in one line;
  the code is then 2.

  Args:
    main: the command.
    arguments: the program's name and the flags.
    flag_values: what the flags are parsed into; None if the command reads its
      arguments itself.
  """
  try:
    if flag_values is not None and not _parse(main, arguments, flag_values):
      return 0
    return main()
  except errors.UserError as error:
    return errors.report(error)
  except OSError as error:
    if error.errno not in _BAD_DISK:
      raise
    return errors.report(error)
  except MemoryError:
    return errors.report(UsageError(
        'there is not enough memory; allowed: smaller settings, or a higher '
        'limit (ulimit -v) if there is one'))


def run(main: Callable[[], int],
        flag_values: Optional[flags.FlagValues] = flags.FLAGS) -> None:
  """Calls a command with the process's arguments, and exits; see `call`."""
  streams.make_tolerant()
  stopping.take_back()
  try:
    os.getcwd()
  except OSError:
    sys.exit(errors.report(UsageError(
        'the current directory is gone; change into another')))
  try:
    code = call(main, sys.argv, flag_values)
  except KeyboardInterrupt:  # Before, or after, a command handles signals.
    print('interrupted', file=sys.stderr, flush=True)
    code = 128 + signal.SIGINT
  try:
    sys.stdout.flush()
    sys.stderr.flush()
  except OSError as error:  # For example a full disk: the output is incomplete.
    errors.report(error)
    os._exit(code or 2)
  if threading.active_count() > 1:
    # Threads of nodes may be inside of XLA or Reverb. Python's orderly
    # shutdown would wait for them or abort.
    os._exit(code)
  sys.exit(code)
