"""Writes the files of a small fake run, for tests of code that reads runs."""

import os
import shutil

import numpy as np

from lpg_distributed.core import meta_update
from lpg_distributed.store import eta_file
from tests.analysis import test_report

NAME, CONFIG = test_report.NAME, test_report.CONFIG


def store(path, meta_step=5, snapshots=(2, 4)):
  """Stores the run of `test_report.store_run` and snapshots of its eta.

  Returns the run's directory.
  """
  run_dir = test_report.store_run(path, meta_step)
  for step in snapshots:
    eta_file.save(os.path.join(run_dir, 'eta', f'eta_{step:08d}.npz'),
                  np.float32(step) * meta_update.init(CONFIG).eta,
                  CONFIG.rule, meta_step=step)
  return run_dir


def copy(run_dir, path):
  """Copies a run, for a test that changes it."""
  shutil.copytree(run_dir, path)
  return str(path)
