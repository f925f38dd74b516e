"""What the tests cost, and why.

  python -m tests.costs tests/core

runs these tests in one process and prints a table by file: seconds of the
processor of the process and of its children, seconds by cause, and all seconds.
Times of the processor hardly depend on what else the machine does. With
--costs=FILE, one JSON object per test is appended to a file.
"""

import argparse
import collections
import json
import os
import sys
import tempfile
import time

import pytest

CAUSES = ('tracing', 'lowering', 'compiling')
_EVENTS = {'/jax/core/compile/jaxpr_trace_duration': 'tracing',
           '/jax/core/compile/jaxpr_to_mlir_module_duration': 'lowering',
           '/jax/core/compile/backend_compile_duration': 'compiling'}


def pytest_addoption(parser):
  parser.addoption('--costs', help='the file that `tests.costs` writes')


def pytest_configure(config):
  if config.getoption('--costs'):
    config.pluginmanager.register(_Costs(config.getoption('--costs')))


class _Costs:
  """Writes down what the tests of this process cost."""

  def __init__(self, path: str):
    self._file = open(path, 'a', encoding='utf-8')
    self._seconds = collections.Counter()
    self._listening = False
    self._before = self._now()

  def _now(self) -> dict[str, float]:
    # Before JAX is imported by a test module, nothing is compiled.
    if 'jax' in sys.modules and not self._listening:
      from jax import monitoring
      monitoring.register_event_duration_secs_listener(self._note)
      self._listening = True
    times = os.times()
    return {'wall': time.monotonic(), 'own': times.user + times.system,
            'children': times.children_user + times.children_system,
            **self._seconds}

  def _note(self, event: str, seconds: float, **unused) -> None:
    if event in _EVENTS:
      self._seconds[_EVENTS[event]] += seconds

  def _write(self, name: str) -> None:
    now = self._now()
    row = {key: round(value - self._before.get(key, 0.), 3)
           for key, value in now.items()}
    self._file.write(json.dumps({'test': name, **row}) + '\n')
    self._file.flush()
    self._before = now

  def pytest_collection_finish(self, session):
    self._write('imports')

  def pytest_runtest_logfinish(self, nodeid, location):
    self._write(nodeid)


def show(path: str) -> None:
  """Prints the table of what was written to a file."""
  with open(path, encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  files = collections.defaultdict(collections.Counter)
  for row in rows:
    name = row.pop('test').split('::')[0]
    for key in (name, 'all'):
      files[key].update(row)
      files[key]['tests'] += name != 'imports'
  columns = ('tests', 'wall', 'own', 'children', *CAUSES)
  print(' '.join(f'{column:>9}' for column in columns))
  for name, row in sorted(files.items(), key=lambda item: (
      item[1]['own'] + item[1]['children'])):
    print(' '.join(f'{row[column]:9.1f}' for column in columns), name)


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('paths', nargs='+', help='files or directories of tests')
  parser.add_argument('--costs', help='a file to append the numbers to')
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    path = options.costs or os.path.join(directory, 'costs.jsonl')
    code = pytest.main(['-q', '-p', 'no:xdist', '-p', 'tests.costs',
                        f'--costs={path}', *options.paths])
    show(path)
  return int(code)


if __name__ == '__main__':
  sys.exit(main())
