"""Jobs of meta-testing as a Launchpad program: workers and one list."""

import os
import sys
from typing import Sequence

import launchpad as lp

from lpg_distributed.meta_testing import worker as worker_lib
from lpg_distributed.nodes import heartbeat

ATARI_EVALUATOR = 'atari_evaluator'


def _work(tasks, num_threads):
  heartbeat.start()
  failed = worker_lib.Worker(tasks, lp.stop_event(), num_threads).work()
  print(f'{failed} jobs have failed', flush=True)
  sys.stderr.flush()
  # Threads may be inside of XLA, where an orderly shutdown would wait.
  os._exit(0)


def make_program(tasks: Sequence[worker_lib.Task], num_workers: int,
                 num_threads: int) -> lp.Program:
  """Wires the workers, each an evaluator node of its own.

  Args:
    tasks: all of them.
    num_workers: nodes, each a process.
    num_threads: of each.
  """
  program = lp.Program('lpg_atari')
  with program.group(ATARI_EVALUATOR):
    for _ in range(num_workers):
      program.add_node(lp.PyNode(_work, tasks, num_threads))
  return program
