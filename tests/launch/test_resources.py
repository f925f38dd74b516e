"""Resource files: fields of groups, places of nodes, and refusals."""

import json
import pathlib
import re

import pytest

from lpg_distributed.launch.cluster import resources

COUNTS = {'meta_learner': 1, 'bandit_server': 1, 'lifetime_worker': 3}
SERVICES = {'nodes': ['bandit_server', 'meta_learner']}


DOCS = pathlib.Path(__file__).resolve().parents[2] / 'docs'


def place(content, counts=None):
  return resources.place(resources.from_dict(content), counts or COUNTS)


def test_a_group_has_its_own_fields_then_those_of_the_job_then_defaults():
  services, workers = place(
      {'job': {'partition': 'cpu', 'setup': ['a'], 'time': 5},
       'groups': {'lifetime_worker': {'hosts': 3, 'cpus': 4, 'setup': ['b, c'],
                                      'memory_gb': 1.0001},
                  'services': {**SERVICES, 'cpus': 2}}})
  assert services.group == resources.Group(
      partition='cpu', setup=('a',), time='5', name='services', cpus=2,
      nodes=('bandit_server', 'meta_learner'))
  assert services.nodes == (('meta_learner', 0), ('bandit_server', 0))
  assert (services.group.memory_mb, services.nodes_per_host) == (4096, 2)
  assert workers.nodes == tuple(('lifetime_worker', i) for i in range(3))
  assert (workers.group.hosts, workers.group.cpus) == (3, 4)
  assert workers.group.setup == ('b, c',)
  assert workers.group.memory_mb == 1025  # Rounded up.
  assert resources.by_label((services, workers))['meta_learner'].cpus == 2


def test_the_file_may_set_the_number_of_nodes():
  job = resources.from_dict({'groups': {
      'all': {'nodes': list(COUNTS), 'tasks': 6}}})
  fixed = {'meta_learner': 1, 'bandit_server': 1}
  assert resources.tasks_of(job, 'lifetime_worker', fixed) == 4
  assert resources.tasks_of(job, 'atari_evaluator', {}) is None
  job = resources.from_dict({'groups': {'lifetime_worker': {'tasks': 6}}})
  assert resources.tasks_of(job, 'lifetime_worker', fixed) == 6


@pytest.mark.parametrize('text, seconds', [
    ('5', 300), ('5:30', 330), ('1:02:03', 3723), ('1-02:03:04', 93784),
    ('2-3', 183600), ('1-0:30', 88200)])
def test_times_are_read_as_slurm_reads_them(text, seconds):
  assert resources.parse_time(text) == seconds


WORKERS = {'lifetime_worker': {}, 'services': SERVICES}


@pytest.mark.parametrize('content, message', [
    ([], 'no table'),
    ({}, 'groups is missing'),
    ({'group': {}}, 'group is no table of a resource file; allowed: job'),
    ({'groups': {**WORKERS, 'wokers': {}}},
     "groups.wokers has 'wokers', which is no node of this program; allowed: "
     'meta_learner, bandit_server, lifetime_worker'),
    ({'groups': {'lifetime_worker': {}}},
     'no group has meta_learner, bandit_server'),
    ({'groups': {**WORKERS, 'x': {'nodes': ['lifetime_worker']}}},
     'lifetime_worker is in two groups'),
    ({'groups': {'x': 3}}, 'groups.x is no table'),
    ({'groups': {'x': {'cpu': 2}}}, 'groups.x.cpu is no field; allowed: part'),
    ({'groups': {'x': {'cpus': 0}}},
     'groups.x.cpus is 0; allowed: a whole number from 1 to'),
    ({'groups': {'x': {'cpus': 1.5}}}, 'cpus is 1.5; allowed: a whole number'),
    ({'groups': {'x': {'cpus': True}}}, 'cpus is True'),
    ({'groups': {'x': {'memory_gb': 0}}}, 'memory_gb is 0'),
    ({'groups': {'x': {'memory_gb': float('nan')}}}, 'memory_gb is nan'),
    ({'groups': {**WORKERS, 'lifetime_worker': {'hosts': 4}}},
     'groups.lifetime_worker.hosts is 4, for 3 nodes; allowed: at most one'),
    ({'groups': {**WORKERS, 'lifetime_worker': {'tasks': 4}}},
     'groups.lifetime_worker.tasks is 4, and the program has 3'),
    ({'groups': {**WORKERS, 'lifetime_worker': {'tpus': 4}}},
     'has 3 nodes on a host with TPUs'),
    ({'groups': {'x': {'setup': 'module load a'}}}, 'allowed: a list of'),
    ({'groups': {'x': {'setup': ['a\nb']}}}, 'allowed: text of one line'),
    ({'groups': {'x': {'image': 'a b'}}}, "image is 'a b'"),
    ({'groups': {'x': {'image': 'a;b'}}}, "image is 'a;b'"),
    ({'groups': {'x': {'partition': 'a b'}}}, "partition is 'a b'"),
    ({'groups': {'x': {'partition': '--exclusive'}}}, 'allowed: one name'),
    ({'groups': {'x': {'options': ['-x']}}},
     "options is '-x'; allowed: options of sbatch"),
    ({'groups': {'x': {'gpu_type': 'a100'}}}, 'gpu_type is set and gpus is 0'),
    ({'groups': {'x': {'gpus': 1, 'tpus': 1}}}, 'allowed: one of them'),
    ({'groups': {'x': {'tpus': 4, 'tpu_topology': '4'}}}, 'allowed: as 2x4'),
    ({'groups': {'x': {'time': '1h'}}}, "groups.x.time is '1h'"),
    ({'job': {'time': '0'}}, 'job.time is 0'),
    ({'job': {'ports': '30-40'}}, "job.ports is '30-40'"),
    ({'job': {'ports': '4000-3000'}}, "job.ports is '4000-3000'"),
    ({'job': {'name': 'a b'}}, "job.name is 'a b'"),
])
def test_invalid_files_are_refused_in_one_line(content, message, tmp_path):
  path = tmp_path / 'resources.json'
  path.write_text(json.dumps(content), encoding='utf-8')
  with pytest.raises(resources.ResourceError) as caught:
    resources.place(resources.load(str(path)), COUNTS)
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_toml_and_json_give_the_same_job(tmp_path):
  (tmp_path / 'r.toml').write_text(
      '[job]\ntime = 5  # minutes\n[groups.a]\nnodes = ["b"]\n')
  (tmp_path / 'r.json').write_text(
      '{"job": {"time": "5"}, "groups": {"a": {"nodes": ["b"]}}}')
  assert resources.load(str(tmp_path / 'r.toml')) == resources.load(
      str(tmp_path / 'r.json'))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  for name, text in (('absent', None), ('no.json', '{'), ('no.toml', '[')):
    if text:
      (tmp_path / name).write_text(text, encoding='utf-8')
    with pytest.raises(resources.ResourceError, match=name):
      resources.load(str(tmp_path / name))


@pytest.mark.parametrize('page, number', [('cluster.md', 5),
                                          ('kubernetes.md', 1)])
def test_the_examples_of_the_documents_place_every_node(page, number):
  services = {'meta_learner': 1, 'gradient_queue': 1, 'bandit_server': 1,
              'atari_evaluator': 1}
  blocks = re.findall(r'```toml\n(.*?)```',
                      (DOCS / page).read_text(encoding='utf-8'), re.DOTALL)
  assert len(blocks) == number
  for block in blocks:
    job = resources.from_dict(resources.tomllib.loads(block))
    wanted = dict(services)
    if 'tpus' in block:  # The learner has all lifetimes; see the page.
      del wanted['atari_evaluator']
    else:
      wanted['lifetime_worker'] = resources.tasks_of(
          job, 'lifetime_worker', services)
    assert resources.place(job, wanted)
