"""Launchpad's packaging for Vertex AI, up to where credentials are asked for.

A stand-in replaces XManager, which is no part of the test environment. It
records its arguments and then has no credentials. The last test runs with the
real one where `launch/cluster/vertex_requirements.txt` is installed.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

from packaging import requirements
from packaging import utils
import pytest

ROOT = pathlib.Path(__file__).parents[2]
RESOURCES = '''
[groups.services]
nodes = ["gradient_queue", "bandit_server"]
[groups.meta_learner]
cpus = 8
memory_gb = 16
tpus = 8
tpu_type = "tpu-v3"
[groups.lifetime_worker]
tasks = 3
cpus = 2
'''
_XM = '''
GiB = 2 ** 30

class JobRequirements:
  def __init__(self, replicas=1, **need):
    if set(need) - {'cpu', 'ram', 'tpu_v3'}:
      raise KeyError(sorted(need))
    self.need, self.replicas = need, replicas
  def __str__(self):
    return str(self.need)

class _Fields:
  def __init__(self, *args, **kwargs):
    self.args, self.__dict__ = args, {**self.__dict__, **kwargs}

PythonContainer = Packageable = CommandList = Job = JobGroup = _Fields
'''
_XM_LOCAL = '''
import json, os, pickle, sys
from google.auth import exceptions
from xmanager import xm

class Caip:
  class Spec: pass
  def __init__(self, requirements):
    NEEDS.append([requirements.need, requirements.replicas])

NEEDS, SEEN = [], []

class _Experiment:
  def __enter__(self):
    return self
  def __exit__(self, *args):
    pass
  def package(self, packageables):
    path = packageables[0].executable_spec.path
    files = [os.path.relpath(os.path.join(d, f), path)
             for d, _, names in os.walk(path) for f in names]
    sys.path.insert(0, path)
    with open(os.path.join(path, 'job.pkl'), 'rb') as f:
      functions = pickle.load(f)
    SEEN.append({'files': files, 'functions': len(functions),
                 'need': NEEDS[-1][0], 'replicas': NEEDS[-1][1],
                 'address': [n.resolve() for n in getattr(
                     functions[0].__self__, 'addresses')]})
    return [None]
  def add(self, group):
    with open(os.environ['SEEN'], 'w') as f:
      json.dump(SEEN, f)
    raise exceptions.DefaultCredentialsError('none')

create_experiment = lambda experiment_title: _Experiment()
'''
_SPEC = {'cluster': {
    f'workerpool{pool}': [f'10.0.{pool}.{i}:2222' for i in range(3)]
    for pool in range(3)}}


def run(directory, text, python_path, *arguments):
  (directory / 'resources.toml').write_text(text, encoding='utf-8')
  return subprocess.run(
      [sys.executable, '-W', 'ignore', '-m', 'launch.vertex_ai',
       '--set=evaluator.enabled=false', '--bucket=bucket',
       f'--resources={directory / "resources.toml"}', *arguments], cwd=ROOT,
      text=True, capture_output=True, timeout=300, check=False, env={
          **os.environ, 'PYTHONPATH': python_path, 'HOME': str(directory),
          'SEEN': str(directory / 'seen.json'),
          'CLUSTER_SPEC': json.dumps(_SPEC)})


@pytest.fixture
def stand_in(tmp_path):
  package = tmp_path / 'modules' / 'xmanager'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('', encoding='utf-8')
  (package / 'xm.py').write_text(_XM, encoding='utf-8')
  (package / 'xm_local.py').write_text(_XM_LOCAL, encoding='utf-8')
  return str(package.parent)


def test_packages_are_complete_and_the_learner_comes_first(
    stand_in, tmp_path):
  done = run(tmp_path, RESOURCES, stand_in)
  assert done.returncode == 2
  assert 'knows no credentials' in done.stderr.splitlines()[-1], done.stderr
  learner, services, workers = json.loads(
      (tmp_path / 'seen.json').read_text(encoding='utf-8'))
  assert learner['need'] == {'cpu': 8, 'ram': 16 << 30, 'tpu_v3': 8}
  assert workers['need'] == {'cpu': 2, 'ram': 4 << 30}
  for pool, number in ((learner, 1), (services, 2), (workers, 3)):
    assert pool['functions'] == pool['replicas'] == number
    assert {'job.pkl', 'process_entry.py', 'requirements.txt',
            'lpg_distributed/programs.py', 'lpg_distributed/envs/base.py',
            'lpg_distributed/launch/__init__.py',
            'lpg_distributed/weights/all_kinds_pi.npz'} <= set(pool['files'])
    assert not [f for f in pool['files'] if f.endswith('.pyc')
                or f.split('/')[0] in ('tests', '.venv', '.git')]
  assert learner['address'] == ['10.0.0.0:2222']
  assert services['address'] == ['10.0.1.0:2222']
  assert workers['address'] == []


# In a process of its own, since the module defines flags.
_CHECK = '''
import sys, tomli
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster import vertex_ai
try:
  vertex_ai.check_pools(resources.place(
      resources.from_dict(tomli.loads(sys.argv[1])),
      {'gradient_queue': 1, 'bandit_server': 1, 'meta_learner': 1,
       'lifetime_worker': 3}), 'meta_learner')
except resources.ResourceError as error:
  print(error)
'''
_ACCELERATOR = 'tpus = 8\ntpu_type = "tpu-v3"\n'


@pytest.mark.parametrize('text,message', [
    (RESOURCES, ''),
    (RESOURCES.replace(_ACCELERATOR, '').replace(
        'cpus = 8\nmemory_gb = 16', 'cpus = 2'), 'make the first pool'),
    (RESOURCES.replace('"gradient_queue", ', '')
     + '[groups.gradient_queue]\ncpus = 3', 'make the first pool'),
    (RESOURCES.replace('tpu_type = "tpu-v3"', ''), 'tpu_type is missing'),
])
def test_resources_that_do_not_fit_are_refused(text, message):
  done = subprocess.run([sys.executable, '-c', _CHECK, text], cwd=ROOT,
                        capture_output=True, text=True, timeout=60, check=True)
  assert message in done.stdout
  assert done.stdout.count('\n') == bool(message)


def test_the_lock_pins_all_and_shares_nothing_with_the_main_one():
  def names(path):
    lines = (ROOT / path).read_text(encoding='utf-8').splitlines()
    parsed = [requirements.Requirement(line) for line in lines
              if line.strip() and not line.startswith('#')]
    return {utils.canonicalize_name(r.name): str(r.specifier) for r in parsed}

  own = names('launch/cluster/vertex_requirements.txt')
  assert own['xmanager'] == '==0.8.5.post1'
  assert all(version.startswith('==') for version in own.values())
  assert not own.keys() & names('requirements.txt').keys()


def test_the_real_xmanager_stops_without_credentials(tmp_path):
  if importlib.util.find_spec('xmanager') is None:
    pytest.skip('XManager is not installed; '
                'launch/cluster/vertex_requirements.txt has it')
  done = run(tmp_path, RESOURCES, os.environ.get('PYTHONPATH', ''))
  assert done.returncode == 2
  assert 'knows no credentials' in done.stderr.splitlines()[-1], done.stderr
