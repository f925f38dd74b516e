"""A real cluster, a shell full of settings, and paths hard to write."""

import json
import re
import sys

import pytest

from tests import waiting
from tests.slurm import cluster as cluster_lib

pytestmark = [pytest.mark.processes, pytest.mark.long]
SETTINGS = {'SBATCH_EXPORT': 'NONE', 'SBATCH_TIMELIMIT': '999999',
            'SBATCH_PARTITION': 'no_such', 'SLURM_JOB_ID': '4711',
            'SLURM_NTASKS_PER_NODE': '9', 'SLURM_EXPORT_ENV': 'NONE',
            'SQUEUE_STATES': 'COMPLETED'}
PLACE = 'runs/it\'s a "toy" %j'
ALL = {'nodes': ['service', 'worker'], 'hosts': 2, 'memory_gb': 0.5}


def submit(cluster, place, **job):
  """Submits the program of `toy.py`; returns what reads its log."""
  cluster.path('home/r.json').write_text(json.dumps(
      {'job': {'time': 30, **job}, 'groups': {'all': ALL}}))
  words = [f'{name}={value}' for name, value in SETTINGS.items()]
  answer = cluster.run(
      'env', *words, sys.executable,
      cluster_lib.ROOT / 'tests' / 'slurm' / 'toy.py',
      f'{cluster_lib.SHARED}/{place}', 'r.json', check=False)
  assert re.match(r'job \d+; its log: .*slurm\.log\n', answer.stdout), answer
  assert 'not used, since the resource file decides' in answer.stderr
  path = cluster.path(f'{place}/logs/slurm.log')
  return lambda: path.read_text() if path.exists() else ''


@pytest.mark.parametrize('place, memory', [(PLACE, 'mem-per-cpu'),
                                           ('runs/second', 'none')])
def test_a_job_runs_whatever_the_shell_and_the_path(cluster, place, memory):
  """Every agent died of KeyError: 'LPG_ATTEMPT', and the job began anew."""
  log = submit(cluster, place, memory_option=memory)
  try:
    # The leader names all nodes of each host once they have begun.
    waiting.until(lambda: len(re.findall(r'host\d: ', log())) == 2,
                  'nodes on two hosts', said=log)
    calls = cluster.path(f'{place}/logs/service/0')
    # Either worker may be the first to call.
    waiting.until(lambda: {'0', '1'} <= set(re.findall(
        r'(\d): ', calls.read_text())), 'calls of both workers', said=log)
    assert 'queued again' not in log()
  finally:
    cluster.run('scancel', '--user=researcher')
    waiting.until(lambda: not cluster.run('squeue', '--noheader').stdout,
                  'the end of the job', said=log)


def test_a_setup_line_that_fails_is_named(cluster):
  """The job was COMPLETED."""
  log = submit(cluster, 'runs/third', setup=['module_of_elsewhere load x'])
  waiting.until(lambda: 'setup failed with code 127: module_of_elsewhere'
                in log(), 'the line', said=log)
  ended = lambda: re.search(r'JobState=(\w+)', cluster.run(
      'scontrol', 'show', 'job', '3').stdout).group(1)
  waiting.until(lambda: ended() == 'FAILED', 'a job that has failed', said=log)
