"""What every entry point shares: flags in, one line for what is wrong."""

import sys
from typing import Callable

from absl import flags


class UsageError(ValueError):
  """A bad command; the message is one line."""


def run(main: Callable[[], int]) -> None:
  """Parses flags, calls `main` and exits with what it returns.

  A `ValueError` of our own kinds ends the process with its message and 2.
  """
  # Here, since the classes below are what may be wrong with a command.
  from lpg_distributed import config as config_lib
  from lpg_distributed import eta_file
  from lpg_distributed.nodes import checkpointing
  try:
    rest = flags.FLAGS(sys.argv)[1:]
    if rest:
      raise UsageError(f'{rest[0]!r} is no flag; allowed: --name=value')
    code = main()
  except (flags.Error, UsageError, config_lib.ConfigError,
          checkpointing.CheckpointError, eta_file.EtaFileError) as error:
    print(f'error: {error}'.replace('\n', ' '), file=sys.stderr)
    code = 2
  sys.stdout.flush()
  sys.exit(code)
