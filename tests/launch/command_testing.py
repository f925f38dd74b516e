"""Runs commands as a user would, many in one process."""

import importlib
import json
import os
import subprocess
import sys
from unittest import mock

from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment

# Runs one command after another in one process, and prints how each ended. None
# of them may start a run.
MANY = '''
import contextlib, importlib, io, json, sys, types
from absl import flags
from lpg_distributed.launch import command, process_environment
module = importlib.import_module(sys.argv[1])
process_environment.ensure = lambda variables, here=True: None
runner = 'lpg_distributed.launch.local.runner'
sys.modules[runner] = types.ModuleType(runner)
for line in sys.stdin:
  sys.argv[1:] = json.loads(line)
  flags.FLAGS.unparse_flags()
  for flag in flags.FLAGS.get_flags_for_module(module):
    flag.unparse()
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      command.run(module.main)
    except SystemExit as end:
      code = end.code
    except BaseException as error:
      code = repr(error)
  print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
'''


def call(name, arguments):
  """Runs a command that has flags of its own in this process.

  Args:
    name: of a module of `launch.commands`.
    arguments: its flags.

  Returns:
    The exit code.
  """
  # Loaded again, so that flags have their defaults.
  module = importlib.reload(importlib.import_module(
      f'lpg_distributed.launch.commands.{name}'))
  with (mock.patch.object(sys, 'argv', [name, *arguments]),
        mock.patch.object(os, 'setpriority')):  # It would last.
    return command.call(module.main, sys.argv, module.FLAGS)


def environment():
  return {**os.environ, **process_environment.with_packages({})}


class Commands:
  """Runs commands of one module, all in one other process."""

  def __init__(self, module):
    self._process = subprocess.Popen(
        [sys.executable, '-c', MANY, module], text=True, env=environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

  def __call__(self, *arguments):
    self._process.stdin.write(json.dumps(arguments) + '\n')
    self._process.stdin.flush()
    return tuple(json.loads(self._process.stdout.readline()))

  def close(self):
    self._process.communicate(timeout=60)
