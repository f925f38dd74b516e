"""One run: here, as a Slurm job of several hosts, disturbed, and here again.

It begins with `local_mp`, goes on as a heterogeneous job to its end, then as a
job of one group of which a node is killed, a whole host, and which is queued
again and cancelled, and ends with `local_mp`. In synchronous mode it comes to
the embedded path's eta, bit for bit.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from lpg_distributed.store import eta_file
from tests import chaos
from tests import waiting
from tests.slurm import cluster as cluster_lib

pytestmark = [pytest.mark.processes, pytest.mark.long]

RUN = f'{cluster_lib.SHARED}/runs/run'
SERVERS = ['meta_learner', 'gradient_queue', 'bandit_server']
SEVERAL = {'job': {'time': 30, 'ports': '30000-30099'}, 'groups': {
    'services': {'nodes': SERVERS, 'memory_gb': 1},
    'lifetime_worker': {'tasks': 2, 'hosts': 2, 'memory_gb': 2}}}
# Two nodes on a host, so the workers are on the last two.
ONE = {'job': {'time': 30}, 'groups': {
    'all': {'nodes': [*SERVERS, 'lifetime_worker'], 'tasks': 5, 'hosts': 3,
            'memory_gb': 2}}}


class Runs:
  """Launches of the run, on the cluster's login host."""

  def __init__(self, cluster):
    self.cluster = cluster
    for name, content in (('several', SEVERAL), ('one', ONE)):
      cluster.path(f'home/{name}.json').write_text(json.dumps(content))

  def command(self, run_dir, meta_steps, *arguments):
    variables = [f'{k}={v}' for k, v in chaos.QUICK_COMPILATION.items()]
    return ['env', *variables, sys.executable, '-m', 'launch.meta_train',
            '--preset=demo', '--noevaluate', f'--run_dir={run_dir}',
            f'--meta_steps={meta_steps}', '--hang_s=10',
            '--set=run.checkpoint_period_steps=50',
            *(f'--set={override}' for override in chaos.OVERRIDES
              if 'num_workers' not in override), *arguments]

  def train(self, *arguments):
    answer = self.cluster.run(*self.command(*arguments), check=False,
                              timeout=waiting.PATIENCE_S)
    assert answer.returncode == 0, answer.stderr + self.log()
    return answer

  def log(self):
    path = self.cluster.path('runs/run/logs/slurm.log')
    return path.read_text() if path.exists() else ''

  def wait_for(self, what, begin=0):
    """Until the log matches, from `begin` on; returns the match."""
    return waiting.until(lambda: re.compile(what).search(self.log(), begin),
                         what, said=self.log)

  def step(self):
    """The newest meta-step that is written down."""
    path = self.cluster.path('runs/run/metrics/learner.jsonl')
    # The last line may not be whole.
    rows = path.read_text().split('\n')[:-1] if path.exists() else []
    return json.loads(rows[-1])['step'] if rows else -1

  def wait_for_step(self, step):
    waiting.until(lambda: self.step() >= step, f'meta-step {step}',
                  said=self.log)

  def wait_for_more_steps(self):
    """Until the run has taken new meta-steps, so that it is in order again."""
    self.wait_for_step(self.step() + 50)

  def eta(self, name, meta_step):
    file = eta_file.load(str(self.cluster.path(f'runs/{name}/eta.npz')))
    assert file.info['meta_step'] == meta_step
    return file.eta


@pytest.fixture(scope='module')
def runs(cluster):
  return Runs(cluster)


def test_a_job_of_several_groups_goes_on_to_its_end(runs):
  runs.train(RUN, 10, '--launch_type=local_mp')
  runs.eta('run', 10)
  done = runs.train(RUN, 30, '--launch_type=slurm', '--resources=several.json',
                    '--follow')
  assert re.match(r'job 1; its log: \S+slurm\.log\n', done.stdout)
  assert 'goes on at meta-step 10' in done.stdout
  assert 'job 1 is RUNNING on host1' in done.stderr
  assert 'job 1 has ended: COMPLETED, exit code 0' in done.stderr
  runs.eta('run', 30)
  found = re.findall(r'\d (host\d): (.*)', done.stdout)
  assert dict(found) == {
      'host1': 'meta_learner/0, gradient_queue/0, bandit_server/0',
      'host2': 'lifetime_worker/0', 'host3': 'lifetime_worker/1'}
  # Each node listened where its firewall lets others in.
  addresses = runs.cluster.path('runs/run/slurm/attempts/0/addresses')
  ports = [json.loads(file.read_text()).split(':')
           for file in addresses.iterdir()]
  assert len(ports) == 3
  assert all(host == '10.77.0.10' and 30000 <= int(port) < 30100
             for host, port in ports)


def test_a_job_of_one_group_is_disturbed_and_comes_to_the_same_eta(runs):
  begin = len(runs.log())
  follower = subprocess.Popen(
      runs.cluster.command(*runs.command(
          RUN, 1_000_000, '--launch_type=slurm', '--resources=one.json',
          '--follow')), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True)
  try:
    job, cancelled = _disturb(runs, begin)
    output, _ = follower.communicate(timeout=waiting.PATIENCE_S)
  finally:
    follower.kill()
  assert follower.returncode == 1
  assert f'job {job} has ended: CANCELLED' in output
  assert 'Traceback' not in output
  last = cancelled + 10
  runs.train(RUN, last, '--launch_type=local_mp')
  here = f'{cluster_lib.SHARED}/runs/embedded'
  runs.train(here, last, '--launch_type=embedded', '--num_workers=1')
  np.testing.assert_array_equal(runs.eta('run', last),
                                runs.eta('embedded', last))


def _disturb(runs, begin):
  """Kills a node and a host, queues again, cancels; returns job and step."""
  cluster = runs.cluster
  runs.wait_for('goes on at meta-step 30 on host1', begin)
  where = runs.wait_for(r'(host\d): [^\n]*lifetime_worker/1', begin)[1]
  others = runs.wait_for(r'(host\d): [^\n]*lifetime_worker/0', begin)[1]
  assert len({'host1', where, others}) == 3
  runs.wait_for_step(60)

  # A second launch of the same run.
  second = cluster.run(*runs.command(RUN, 1_000_000, '--launch_type=slurm',
                                     '--resources=one.json'), check=False)
  assert second.returncode == 2 and 'has job' in second.stderr
  job = re.search(r'job (\d+) \(RUNNING\)', second.stderr)[1]

  attempt = cluster.path('runs/run/slurm/attempts/0')
  pid = (attempt / 'pids' / 'lifetime_worker.0').read_text()
  address = (attempt / 'addresses' / 'meta_learner.0.courier').read_text()
  cluster.run('kill', '-9', pid)
  runs.wait_for(r'node lifetime_worker/0 ended \(signal SIGKILL\) after \d+ s; '
                'it is started again', begin)
  runs.wait_for_more_steps()
  assert (attempt / 'addresses' / 'meta_learner.0.courier'
          ).read_text() == address

  cluster.kill_host(where)
  runs.wait_for(f'lifetime_worker/1 of {where} is lost', begin)
  runs.wait_for(f'lifetime_worker/1 of {where} goes on at host', begin)
  runs.wait_for_more_steps()

  before = runs.step()
  cluster.run('scontrol', 'requeue', job)
  saved = int(runs.wait_for(
      r'run ends with its checkpoint of meta-step (\d+)', begin)[1])
  again = runs.wait_for(rf'goes on at meta-step {saved} on host', begin)
  assert saved >= before
  runs.wait_for_step(saved + 10)

  answer = cluster.run(sys.executable, '-m', 'launch.slurm', '--cancel',
                       f'--run_dir={RUN}')
  assert answer.stdout == f'job {job} ends; it was RUNNING\n'
  ended = runs.wait_for(r'run ends with its checkpoint of meta-step (\d+)',
                        again.end())
  assert int(ended[1]) >= saved + 10
  return job, int(ended[1])
