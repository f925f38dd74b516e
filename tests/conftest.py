"""What several test modules share."""

import os

import jax
import pytest

# Whose files take minutes: begun first, so that two processes end together.
_LONGEST = ('slurm', 'launch')


def pytest_collection_modifyitems(items):
  def order(item):
    directory = item.path.parent.name
    return _LONGEST.index(directory) if directory in _LONGEST else len(_LONGEST)

  items.sort(key=order)


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


@pytest.fixture(scope='module')
def quick_compilation():
  """Compiles in a third of the time, to slower code of the same results.

  For modules whose programs run a few steps only.
  """
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
