"""Meta-testing jobs as a Launchpad program: workers share a list of tasks."""

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
  # An orderly shutdown would wait for threads inside XLA.
  os._exit(0)


def make_program(tasks: Sequence[worker_lib.JobTask], num_workers: int,
                 num_threads: int) -> lp.Program:
  """Builds the program; each worker is a node of its own.

  Args:
    tasks: all tasks of all workers.
    num_workers: number of nodes; each is a process.
    num_threads: threads per worker.
  """
  program = lp.Program('lpg_atari')
  with program.group(ATARI_EVALUATOR):
    for _ in range(num_workers):
      program.add_node(lp.PyNode(_work, tasks, num_threads))
  return program
