"""Clusters for tests, and what is said where there can be none."""

import os

import pytest

from tests.slurm import cluster as cluster_lib


def make_cluster(**kwargs):
  """A cluster; skips where there can be none, and fails there in CI."""
  obstacle = cluster_lib.missing()
  if not obstacle:
    try:
      return cluster_lib.Cluster(**kwargs)
    except RuntimeError as error:
      obstacle = f'a system that allows it: {error}'
  message = f'a Slurm cluster needs {obstacle}'
  if os.environ.get('CI'):
    pytest.fail(message)
  return pytest.skip(message)


def close(cluster, request, failed_before):
  """Shows what the daemons said if a test has failed."""
  try:
    if request.session.testsfailed > failed_before:
      print(cluster.logs())
  finally:
    cluster.close()


@pytest.fixture(scope='module')
def cluster(request):
  """One for all tests of a module."""
  before = request.session.testsfailed
  cluster = make_cluster()
  yield cluster
  close(cluster, request, before)
