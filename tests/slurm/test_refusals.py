"""What no host can do is refused before anything is submitted."""

import json
import sys

import pytest

from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import checks
from lpg_distributed.launch.cluster.slurm import commands
from tests.slurm import cluster as cluster_lib

pytestmark = [pytest.mark.processes, pytest.mark.long]

LABELS = ['meta_learner', 'gradient_queue', 'bandit_server', 'lifetime_worker']
ALL = {'nodes': LABELS, 'memory_gb': 1}
COUNTS = {'meta_learner': 1, 'gradient_queue': 1, 'bandit_server': 1,
          'lifetime_worker': 2}

WRONG = (
    ({'groups': {'all': ALL, 'wokers': {}}},
     "groups.wokers has 'wokers', which is no node of this program; allowed: "
     'meta_learner, gradient_queue, bandit_server, lifetime_worker'),
    ({'groups': {'all': {**ALL, 'hosts': 4, 'spare_hosts': 1}}},
     'groups.all.hosts and spare_hosts are 5; allowed: at most the 4 of '
     'partition main'),
    ({'groups': {'all': {**ALL, 'hosts': 2, 'memory_gb': 8}}},
     'groups.all.memory_gb: 3 nodes on a host need 25600 MB; allowed: at most '
     '16000, which 2 hosts of partition main have'),
    ({'groups': {'all': {**ALL, 'cpus': 2}}},
     'groups.all.cpus: 5 nodes on a host need 10 processors; allowed: at most '
     '4, which 1 hosts of partition main have'),
    ({'groups': {'all': {**ALL, 'hosts': 5, 'gpus': 1}}},
     'groups.all.hosts and spare_hosts are 5'),
    ({'groups': {'all': {**ALL, 'hosts': 3, 'gpus': 1, 'gpu_type': 'a100'}}},
     'groups.all.gpus: 2 nodes on a host need 2 gpu:a100; allowed: at most 0'),
    ({'groups': {'all': {**ALL, 'hosts': 3, 'partition': 'fast'}}},
     "groups.all.partition is 'fast'; allowed: first, main"),
    ({'groups': {'all': {**ALL, 'hosts': 3, 'partition': 'first',
                         'time': '1:00:01'}}},
     'groups.all.time is 1:00:01; allowed: at most 1:00:00, the limit of '
     'partition first'),
    ({'groups': {'all': {**ALL, 'hosts': 3, 'image': 'lpg.sif'}}},
     "groups.all.image is 'lpg.sif', which is not there"),
)

# As the commands refuse, many in one process, on the login host.
REFUSE = '''
import json, sys
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import checks
for content in json.load(sys.stdin):
  try:
    checks.check(resources.place(resources.from_dict(content), COUNTS))
    print('fits')
  except resources.ResourceError as error:
    print(error)
'''.replace('COUNTS', repr(COUNTS))


def test_wrong_files_are_refused_in_one_line(cluster):
  contents = [content for content, _ in WRONG]
  contents.append({'groups': {'all': {**ALL, 'hosts': 3}}})
  cluster.path('home/files.json').write_text(json.dumps(contents))
  answer = cluster.run('sh', '-c', '"$0" -c "$1" < files.json', sys.executable,
                       REFUSE)
  *refused, last = answer.stdout.splitlines()
  assert last == 'fits'
  assert len(refused) == len(WRONG)
  for line, (_, message) in zip(refused, WRONG):
    assert line.startswith(message)


@pytest.mark.parametrize('content, message', WRONG[:2])
def test_the_command_submits_nothing_then(cluster, content, message):
  cluster.path('home/r.json').write_text(json.dumps(content))
  answer = cluster.run(
      sys.executable, '-m', 'launch.meta_train', '--launch_type=slurm',
      '--resources=r.json', f'--run_dir={cluster_lib.SHARED}/runs/refused',
      '--set=evaluator.enabled=false', '--num_workers=2', check=False)
  assert answer.returncode == 2
  last = answer.stderr.splitlines()[-1]
  assert last.startswith('error: ') and message in last
  assert not cluster.run('squeue', '--noheader').stdout


def test_what_slurm_refuses_is_one_line_too(cluster):
  """An account that nobody has, for example; here, a feature."""
  script = cluster.path('home/batch.sh')
  script.write_text('#!/bin/sh\n#SBATCH --constraint=nothing\ntrue\n')
  answer = cluster.run(
      sys.executable, '-c',
      'from lpg_distributed.launch.cluster.slurm import commands\n'
      'try: commands.call("sbatch", "batch.sh")\n'
      'except commands.SlurmError as error: print(error)')
  assert answer.stdout.startswith('sbatch refuses: ')
  assert len(answer.stdout.splitlines()) == 1


def test_without_slurm_it_is_said():
  with pytest.raises(commands.SlurmError, match='not-a-command is not on this'):
    commands.call('not-a-command')


def test_accelerators_are_read_as_slurm_lists_them(monkeypatch):
  monkeypatch.setattr(commands, 'call', lambda *words: (
      'gpu*|a|64|256000+|gpu:a100:4(S:0-1),gpu:v100:2|mixed|1-00:00:00\n'
      'gpu*|b|64|256000+|(null)|down*|1-00:00:00\n'))
  first, second = commands.hosts()
  assert first.accelerators == {'gpu': 6, 'gpu:a100': 4, 'gpu:v100': 2}
  assert (first.partition, first.default, first.cpus) == ('gpu', True, 64)
  assert (second.accelerators, second.state) == ({}, 'down')


def test_hosts_that_are_down_do_not_count(monkeypatch):
  monkeypatch.setattr(commands, 'call', lambda *words: (
      'cpu*|a|8|64000|(null)|idle|infinite\n'
      'cpu*|b|8|64000|(null)|drained|infinite\n'))
  job = resources.from_dict({'groups': {'all': {**ALL, 'hosts': 2}}})
  with pytest.raises(resources.ResourceError,
                     match='of the 2 hosts of partition cpu 1 are up'):
    checks.check(resources.place(job, COUNTS))
