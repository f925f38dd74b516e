"""What several test modules share."""

import os
import pathlib

from tests import forks as forks_lib
from tests import session as session_lib

_MADE = session_lib.begin()

import jax  # noqa: E402  It reads its variables when it is imported.
import pytest  # noqa: E402

_LEFT_BY_WORKERS: list[str] = []
# Files that take longest, and then directories of such: begun first, so that
# all processes end together.
_LONGEST = ('test_faults.py', 'test_meta_gradient.py', 'test_equivalence.py',
            'test_lifetime_gradients.py', 'test_published.py', 'slurm',
            'launch', 'analysis', 'nodes')


def pytest_addoption(parser):
  parser.addoption(
      '--run-elsewhere', default='', help='paths whose tests another Python '
      'runs: only those that are marked `pinned` are run of them')


def _name_no_set(item):
  """Processes of pytest-xdist print a set in different orders."""
  params = item.callspec.params if hasattr(item, 'callspec') else {}
  for value in params.values():
    if isinstance(value, (set, frozenset)) and len(value) > 1 and (
        str(value) in item.name):
      raise pytest.UsageError(f'{item.nodeid}: give the parameter `ids`, for '
                              'the order of a set differs by process')


def pytest_collection_modifyitems(config, items):
  for item in items:
    _name_no_set(item)
  elsewhere = [pathlib.Path(path).resolve() for path in
               config.getoption('--run-elsewhere').split()]

  def is_run_here(item):
    return item.get_closest_marker('pinned') or not any(
        item.path.is_relative_to(path) for path in elsewhere)

  config.hook.pytest_deselected(
      items=[item for item in items if not is_run_here(item)])
  items[:] = filter(is_run_here, items)

  def order(item):
    names = (item.path.name, item.path.parent.name)
    return next((i for i, name in enumerate(_LONGEST) if name in names),
                len(_LONGEST))

  items.sort(key=order)


def pytest_collection_finish():
  session_lib.collect_seldom()


def pytest_sessionstart(session):
  session_lib.end_orderly()
  session_lib.stop_ignoring()
  session_lib.adopt_orphans()
  session.lpg_places = session_lib.places()


@pytest.hookimpl(trylast=True)  # After pytest-xdist has ended its processes.
def pytest_sessionfinish(session):
  """A session that leaves something behind has failed."""
  left = session_lib.end_leftovers()
  if hasattr(session.config, 'workerinput'):
    session.config.workeroutput['left'] = left
    return
  # The workers have ended, so that nobody mounts or unmounts meanwhile.
  left += _LEFT_BY_WORKERS + sorted(session_lib.places() - session.lpg_places)
  if left:
    session_lib.complain(left)
    session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)
  session_lib.remove(_MADE)


class _Workers:
  """Of pytest-xdist, if there are any."""

  @pytest.hookimpl(optionalhook=True)
  def pytest_testnodedown(self, node):
    _LEFT_BY_WORKERS.extend(getattr(node, 'workeroutput', {}).get('left', ()))


def pytest_configure(config):
  config.pluginmanager.register(_Workers())


@pytest.fixture(autouse=True)
def _environment():
  """Commands choose threads for their process: not for the tests after them.

  A process that such a test starts would compute in other roundings.
  """
  before = dict(os.environ)
  yield
  for name in os.environ.keys() - before.keys():
    del os.environ[name]
  os.environ.update(before)


@pytest.fixture(scope='session')
def forks():
  """Runs programs without their imports."""
  made = forks_lib.Forks(pathlib.Path(__file__).resolve().parents[1])
  yield made
  made.close()


@pytest.fixture(scope='module')
def full_optimization():
  """Compiles as in use, for modules whose programs run long."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)
