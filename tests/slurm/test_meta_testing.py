"""Atari games as a Slurm job: two hosts share one list."""

import json
import sys

import pytest

from tests.slurm import cluster as cluster_lib

pytestmark = [pytest.mark.processes, pytest.mark.long]

RESULTS = f'{cluster_lib.SHARED}/runs/a2c'


def test_two_hosts_share_the_games(cluster):
  cluster.path('home/r.json').write_text(json.dumps(
      {'job': {'time': 10}, 'groups': {'atari_evaluator': {
          'tasks': 2, 'hosts': 2, 'memory_gb': 2}}}))
  command = [
      'env', 'JAX_DISABLE_MOST_OPTIMIZATIONS=1', sys.executable, '-m',
      'launch.atari', '--games=pong,breakout', '--rule=a2c', '--frames=400',
      '--num_envs=2', f'--results={RESULTS}', '--launch_type=slurm',
      '--resources=r.json', '--follow']
  answer = cluster.run(*command, timeout=300, check=False)
  assert answer.returncode == 0, answer.stderr + answer.stdout
  assert 'host1: atari_evaluator/0\n' in answer.stdout
  assert 'host2: atari_evaluator/1\n' in answer.stdout
  assert '2 of 2 jobs are done' in answer.stdout
  for game in ('pong', 'breakout'):
    rows = cluster.path(f'runs/a2c/{game}/a2c_seed0/result.jsonl').read_text()
    assert json.loads(rows.splitlines()[-1])['env_steps'] >= 100
  # Nothing is left to do; the same command says so, and submits no job.
  again = cluster.run(*command, timeout=300)
  assert '2 jobs, 2 done before' in again.stderr
  assert 'job ' not in again.stdout
