"""What several test modules share."""

import jax
import pytest


@pytest.fixture(scope='module')
def quick_compilation():
  """Compiles in a third of the time, to slower code of the same results.

  For modules whose programs run a few steps only.
  """
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
