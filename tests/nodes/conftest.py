"""Fixtures that several test files share."""

import pytest

from tests.nodes import learner_testing


@pytest.fixture
def start(tmp_path):
  """Starts learners, and ends them with the test."""
  runs = []

  def make(name='run', checkpoint=None, **run):
    runs.append(learner_testing.Run(
        learner_testing.make_config(**run), tmp_path / name,
        checkpoint).start())
    return runs[-1]

  yield make
  for run in runs:
    run.finish()


@pytest.fixture
def serve():
  """Starts facades, and ends them with the test."""
  from tests.nodes import facade_testing
  made = []

  def make(**settings):
    made.append(facade_testing.Served(**settings))
    return made[-1]

  yield make
  for served in made:
    served.close()
