"""The number of processors, on Linux and elsewhere."""

import os

from lpg_distributed import processors


def test_a_process_counts_the_processors_that_it_may_use(monkeypatch):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {1, 5, 6})
  assert processors.count() == 3


def test_without_affinity_all_processors_count(monkeypatch):
  monkeypatch.delattr(os, 'sched_getaffinity')
  monkeypatch.setattr(os, 'cpu_count', lambda: 7)
  assert processors.count() == 7
  monkeypatch.setattr(os, 'cpu_count', lambda: None)
  assert processors.count() == 1
