"""Runs commands as a user would, many in one process."""

import json
import os
import subprocess
import sys

from lpg_distributed.launch import process_environment

# Runs one command after another in a process of their own, and says how each
# ended. None may come to a run.
MANY = '''
import contextlib, importlib, io, json, sys, types
from absl import flags
from lpg_distributed.launch import command, process_environment
module = importlib.import_module(sys.argv[1])
process_environment.ensure = lambda variables, name: None
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


def environment():
  return {**os.environ, **process_environment.with_packages({})}


class Commands:
  """Commands within one process."""

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
