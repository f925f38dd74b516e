"""Random kills for a short time. For longer tests:

  python -m tests.killed_runs --kills=50
  python -m tests.chaos --minutes=60 --seed=1
"""

import json
import os
import subprocess
import sys

import pytest

from lpg_distributed.launch import process_environment
from tests import chaos

pytestmark = [pytest.mark.processes, pytest.mark.long]


def run(module, *arguments):
  result = subprocess.run(
      [sys.executable, '-m', module, *arguments], capture_output=True,
      text=True, timeout=580, check=False,
      env={**os.environ, **process_environment.with_packages(
          chaos.QUICK_COMPILATION)})
  assert result.returncode == 0, result.stderr[-3000:]
  return json.loads(result.stdout)


def test_a_run_whose_processes_are_all_killed_gives_the_same_eta():
  result = run('tests.killed_runs', '--kills=4', '--seed=2')
  assert result['same_eta'] and result['kills'] >= 1


def test_a_run_whose_nodes_are_killed_gives_the_same_eta():
  result = run('tests.chaos', '--minutes=0.7', '--seed=1',
               '--meta_steps=1200', '--period_s=2')
  assert result['runs_with_another_eta'] == 0 and result['runs'] >= 1
  assert sum(count for name, count in result.items()
             if name.startswith(('kill', 'stop'))) >= 1
