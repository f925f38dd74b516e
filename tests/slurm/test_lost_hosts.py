"""What a job does when its hosts go, its agents die, or its time is over."""

import json
import re
import sys

import pytest

from tests import waiting
from tests.slurm import cluster as cluster_lib
from tests.slurm import conftest

pytestmark = [pytest.mark.processes, pytest.mark.long]


class Toy:
  """The program of `toy.py` as a job, and what its files say."""

  def __init__(self, cluster, groups, **job):
    self.cluster = cluster
    self._root = f'{cluster_lib.SHARED}/runs/toy'
    cluster.path('home/r.json').write_text(json.dumps(
        {'job': {'time': 30, **job}, 'groups': groups}))
    answer = cluster.run(
        sys.executable, cluster_lib.ROOT / 'tests' / 'slurm' / 'toy.py',
        self._root, 'r.json', check=False)
    assert re.match(r'job 1; its log: .*slurm\.log\n', answer.stdout), answer

  def log(self):
    path = self.cluster.path('runs/toy/logs/slurm.log')
    return path.read_text() if path.exists() else ''

  def wait_for(self, what):
    """Until the log matches; returns the match."""
    return waiting.until(lambda: re.search(what, self.log()), what,
                         said=self.log)

  def wait_for_calls(self):
    """Until both workers have called the service anew."""
    size = len(self._calls())

    def both_called():
      calls = self._calls()[size:]
      return len(calls) >= 20 and all(
          f'{worker}:' in calls[-1] for worker in (0, 1))

    waiting.until(both_called, 'calls of both workers', said=self.log)

  def _calls(self):
    path = self.cluster.path('runs/toy/logs/service/0')
    return [line for line in path.read_text().splitlines()
            if line.startswith('{')] if path.exists() else []

  def everything(self):
    """The job's log, and those of the nodes and their agents."""
    return self.log() + ''.join(
        f'== {path}\n{path.read_text()[-2000:]}' for path in sorted(
            self.cluster.path('runs/toy/logs').glob('*/*')))

  def wait_for_attempt(self, number):
    """Until that attempt has all nodes; returns their hosts by name."""
    beats = self.cluster.path(f'runs/toy/slurm/attempts/{number}/beats')

    def read():
      # A file that is written in place is empty for a moment.
      texts = {file.name: file.read_text() for file in beats.glob('*[0-9]')}
      return texts if len(texts) == 3 and all(texts.values()) else None

    texts = waiting.until(read, f'three nodes of attempt {number}',
                          said=self.everything)
    self.wait_for_calls()
    return {name: json.loads(text) for name, text in texts.items()}


@pytest.fixture
def cluster(request):
  cluster = conftest.make_cluster(num_hosts=5)
  before = request.session.testsfailed
  yield cluster
  conftest.close(cluster, request, before)


def test_one_group_places_lost_nodes_anew_and_is_queued_again(cluster):
  toy = Toy(cluster, {'all': {'nodes': ['service', 'worker'], 'hosts': 2,
                              'spare_hosts': 1, 'memory_gb': 1}})
  beats = toy.wait_for_attempt(0)
  assert [beats[node]['host'] for node in (
      'service.0', 'worker.0', 'worker.1')] == ['host1', 'host1', 'host2']
  # An agent alone: its node ends with it, and comes back on the same host.
  cluster.run('kill', '-9', beats['worker.0']['pid'])
  toy.wait_for('worker/0 of host1 is lost')
  toy.wait_for('worker/0 of host1 goes on at host1')
  toy.wait_for_calls()
  # A whole host: the spare one takes over.
  cluster.kill_host('host2')
  toy.wait_for('worker/1 of host2 goes on at host3')
  toy.wait_for_calls()
  # The job's time is nearly over.
  cluster.run('scancel', '--signal=USR1', '--batch', '1')
  toy.wait_for('the job\'s time is nearly over; here it ends')
  toy.wait_for('the job is queued again')
  beats = toy.wait_for_attempt(1)
  leads = beats['service.0']['host']
  assert 'host2' not in {beat['host'] for beat in beats.values()}
  # The host that leads: the agents notice, and ask Slurm.
  cluster.kill_host(leads)
  beats = toy.wait_for_attempt(2)
  assert not {beat['host'] for beat in beats.values()} & {leads, 'host2'}


def test_several_groups_are_queued_again_as_one_job(cluster):
  toy = Toy(cluster, {'service': {'memory_gb': 1},
                      'worker': {'hosts': 2, 'memory_gb': 1}})
  beats = toy.wait_for_attempt(0)
  hosts = [beats[node]['host'] for node in (
      'service.0', 'worker.0', 'worker.1')]
  assert len(set(hosts)) == 3
  cluster.kill_host(hosts[2])
  toy.wait_for('worker/1 cannot be placed on another host, since Slurm ends a '
               'job of several groups when it loses a host of any; here it '
               'ends')
  beats = toy.wait_for_attempt(1)
  assert hosts[2] not in [beat['host'] for beat in beats.values()]
  assert cluster.run('squeue', '--noheader', '--format=%i %T'
                     ).stdout.split() == ['1+0', 'RUNNING', '1+1', 'RUNNING']


def test_a_node_that_keeps_dying_ends_the_job(cluster):
  """Also: set-up lines, and what stands in for a container without Slurm."""
  image = cluster.path('home/image')
  image.write_text('')
  toy = Toy(cluster, {'all': {'nodes': ['service', 'worker'],
                              'memory_gb': 1, 'image': '/srv/home/image',
                              'setup': ['export LPG_SETUP="a b"']}},
            requeue=False, image_command=(
                'env LPG_IMAGE={image} LPG_SEES={job} PATH=/none'))
  toy.wait_for_attempt(0)
  pids = cluster.path('runs/toy/slurm/attempts/0/pids/worker.1')
  variables = cluster.run('cat', f'/proc/{pids.read_text()}/environ').stdout
  assert {'LPG_SETUP=a b', 'LPG_IMAGE=/srv/home/image',
          f'LPG_SEES={cluster_lib.SHARED}/runs/toy'} <= set(
              variables.split('\0'))
  dead = set()

  def kill_until_it_is_given_up():
    if (pid := pids.read_text()) not in dead:
      dead.add(pid)
      cluster.run('kill', '-9', pid)
    return 'has ended for good' in toy.log()

  waiting.until(kill_until_it_is_given_up, 'the end for good', said=toy.log)
  toy.wait_for(r'node worker/1 has ended for good \(code 1\); here it ends')
  job = lambda: cluster.run('scontrol', 'show', 'job', '1').stdout
  waiting.until(lambda: 'JobState=FAILED' in job(), 'a job that failed',
                said=job)
  assert 'ExitCode=1:0' in job() and 'Restarts=0' in job()
