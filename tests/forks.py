"""Runs programs in forks of a process that has imported what they need.

To import JAX and what stands on it takes seconds of the processor, a fork takes
none. It is for programs that print their help, parse flags or refuse something.
What is about the process itself is tested in one that begins anew.
"""

import json
import subprocess
import sys
from typing import NamedTuple

# It imports nothing that defines flags of commands, and starts no backend of
# JAX, whose threads a fork would lack.
_SERVER = '''
import gc, json, os, sys, tempfile, traceback
sys.path[0] = os.getcwd()
import gymnax, matplotlib.pyplot, scipy.stats
import lpg_distributed.api
from lpg_distributed.analysis import evaluation
gc.freeze()


def run(job, out, err):
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(out.fileno(), 1)
  os.dup2(err.fileno(), 2)
  os.chdir(job['cwd'])
  sys.path.insert(0, job['cwd'])
  sys.argv[1:] = job['arguments']
  try:
    exec(job['code'], {'__name__': '__main__'})
    code = 0
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


for line in sys.stdin:
  job = json.loads(line)
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    pid = os.fork()
    if not pid:
      run(job, out, err)
    _, status = os.waitpid(pid, 0)
    texts = []
    for file in (out, err):
      file.seek(0)
      texts.append(file.read().decode())
  print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), flush=True)
'''
_MODULE = '''
import runpy, sys
runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)
'''


class Done(NamedTuple):
  returncode: int
  stdout: str
  stderr: str


class Forks:
  """The process that is forked; it begins with the first program."""

  def __init__(self, root: str):
    self._root = root
    self._process = None

  def run_code(self, code: str, *arguments: str, cwd=None) -> Done:
    """Runs Python with `arguments` in sys.argv, in the tree or in `cwd`."""
    if self._process is None:
      self._process = subprocess.Popen(
          [sys.executable, '-c', _SERVER], cwd=self._root, text=True,
          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    self._process.stdin.write(json.dumps({
        'code': code, 'arguments': arguments,
        'cwd': str(cwd or self._root)}) + '\n')
    self._process.stdin.flush()
    return Done(*json.loads(self._process.stdout.readline()))

  def run_module(self, name: str, *arguments: str, cwd=None) -> Done:
    """Runs a module, as `python -m NAME` does."""
    return self.run_code(_MODULE, name, *arguments, cwd=cwd)

  def close(self) -> None:
    if self._process is not None:
      self._process.communicate(timeout=60)
