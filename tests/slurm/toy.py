"""A program of one service and two workers that do nothing, as a Slurm job.

  python tests/slurm/toy.py DIRECTORY RESOURCE_FILE

submits it as the launchers do. Workers call the service, which counts. It is
there for what Slurm and hosts do, which needs no JAX.
"""

import os
import sys

from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import checks
from lpg_distributed.launch.cluster.slurm import launches
from lpg_distributed.launch.cluster.slurm import submit
from lpg_distributed.launch.cluster.slurm import work as work_lib
from lpg_distributed.launch.local import local_launchpad
from lpg_distributed.launch.local import runner

HANG_S = 5.


class Service:
  """Counts the calls of each worker."""

  def __init__(self):
    self._calls = {}

  def call(self, worker):
    self._calls[worker] = self._calls.get(worker, 0) + 1
    print(self._calls, flush=True)

  def run(self):
    import launchpad

    from lpg_distributed.nodes import heartbeat
    heartbeat.start()
    launchpad.stop_event().wait()
    os._exit(0)


def work(service, worker):
  import launchpad

  from lpg_distributed.nodes import heartbeat
  heartbeat.start()
  while not launchpad.stop_event().wait(0.2):
    try:
      service.call(worker)
    except Exception as error:  # The service is away.
      print(error, flush=True)
  os._exit(0)


class Work:
  """See `launch/cluster/slurm/work.py`; pickled whole, as of `__main__`."""

  def open(self):
    return True

  def begin(self, attempt_dir):
    pass

  show = begin

  def end(self):
    pass

  explain = close = end

  def where_it_ends(self):
    return 'here it ends'

  def report(self):
    return 0


def main() -> None:
  root = sys.argv[1]
  logs = os.path.join(root, 'logs')
  os.makedirs(logs)
  lp = local_launchpad.load(logs)
  program = lp.Program('toy')
  with program.group('service'):
    service = program.add_node(lp.CourierNode(
        Service, courier_client_kwargs={'call_timeout': 2.}))
  with program.group('worker'):
    for worker in range(2):
      program.add_node(lp.PyNode(work, service, worker))
  job = resources.load(sys.argv[2])
  groups = resources.place(job, {'service': 1, 'worker': 2})
  checks.check(groups)
  submit.write_directory(
      submit.job_dir_of(root), Work(), program, job, groups,
      work_lib.about(['service'], [], [], runner.Supervision(3, HANG_S), logs))
  launches._submit(root, job, groups, False)


if __name__ == '__main__':
  main()
