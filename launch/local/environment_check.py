"""Refuses a run if the user's own environments violate the protocol."""

import json
import subprocess
import sys

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed.envs import names
from lpg_distributed.launch import process_environment

MOST_S = 300.  # for importing, compiling and 100 steps of each environment


def check(config: config_lib.Config) -> None:
  """Checks the user's own environments, in a process without accelerators.

  Raises:
    ConfigError: one violates the protocol; the message is one line.
  """
  if not any(map(names.is_own, config.environments)):
    return
  try:
    done = subprocess.run(
        [sys.executable, '-m', 'lpg_distributed.core.environment_check'],
        input=json.dumps(config_io.to_dict(config)), capture_output=True,
        text=True, check=False, timeout=MOST_S,
        env=process_environment.environment(process_environment.SERVICE))
  except subprocess.TimeoutExpired:
    own = ', '.join(filter(names.is_own, config.environments))
    raise config_lib.ConfigError(
        f'{own}: the check of 100 steps has not ended within {MOST_S:g} s; '
        'allowed: reset and step that return') from None
  if done.returncode:
    last = (done.stderr.strip().splitlines() or [
        f'the check of its environments ended with code {done.returncode}'])[-1]
    raise config_lib.ConfigError(last.removeprefix('error: '))
