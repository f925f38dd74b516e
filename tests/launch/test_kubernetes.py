"""Manifests are valid by the published schemas, and fit each other."""

import base64
import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import time

import kubernetes_validate
import pytest
import tomli
import yaml

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import presets
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.kubernetes import node
from lpg_distributed.launch.cluster.kubernetes import objects
from tests import waiting

ROOT = pathlib.Path(__file__).parents[2]
RESOURCES = '''
[job]
name = "lpg-demo"
image = "registry.example/lpg:1"
[groups.services]
nodes = ["gradient_queue", "bandit_server", "atari_evaluator"]
memory_gb = 1.5
[groups.meta_learner]
cpus = 8
tpus = 4
tpu_type = "tpu-v5-lite-podslice"
tpu_topology = "2x2"
image = "registry.example/lpg-tpu:1"
time = "12:00:00"
[groups.lifetime_worker]
tasks = 3
hosts = 3
gpus = 1
gpu_type = "NVIDIA-L4"
setup = ["ulimit -c 0", "export A='b c'"]
'''


def export(directory, text=RESOURCES, *arguments):
  (directory / 'resources.toml').write_text(text, encoding='utf-8')
  return subprocess.run(
      [sys.executable, '-m', 'launch.export_kubernetes', '--preset=demo',
       f'--resources={directory / "resources.toml"}',
       f'--out={directory / "out"}', *arguments], cwd=ROOT, text=True,
      capture_output=True, timeout=200, check=False)


@pytest.fixture(scope='module')
def manifests(tmp_path_factory):
  directory = tmp_path_factory.mktemp('export')
  done = export(directory)
  assert done.returncode == 0, done.stderr
  assert '1 of 3 workers have no shard' in done.stderr
  found = {}
  for path in sorted((directory / 'out').iterdir()):
    text = path.read_text(encoding='utf-8')
    assert 'not tried on a live cluster' in text
    found[path.name] = yaml.safe_load(text)
  return found


def jobs(manifests):
  return {m['metadata']['labels']['app.kubernetes.io/component']: m
          for m in manifests.values() if m['kind'] == 'Job'}


def pod(manifest):
  return manifest['spec']['template']['spec']


def container(manifest):
  (only,) = pod(manifest)['containers']
  return only


# The oldest version that has all fields in use, and the newest version.
@pytest.mark.parametrize('version', [
    '1.31', kubernetes_validate.latest_version().rpartition('.')[0]])
def test_all_manifests_are_valid_by_the_strict_schemas(manifests, version):
  assert [m['kind'] for m in manifests.values()] == [
      'NetworkPolicy', 'Service', 'ConfigMap', *['Job'] * 5]
  for manifest in manifests.values():
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_refuse_wrong_fields_and_types(manifests):
  for path, value in ((('spec', 'backofLimit'), 1),
                      (('spec', 'template', 'spec', 'hostNetwrk'), True),
                      (('spec', 'completions'), 'three')):
    broken = json.loads(json.dumps(jobs(manifests)['meta-learner']))
    target = broken
    for key in path[:-1]:
      target = target[key]
    target[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
      kubernetes_validate.validate(broken, '1.31', strict=True)


def test_each_kind_of_node_is_an_indexed_job(manifests):
  found = jobs(manifests)
  assert {name: m['spec']['completions'] for name, m in found.items()} == {
      'gradient-queue': 1, 'bandit-server': 1, 'meta-learner': 1,
      'lifetime-worker': 3, 'atari-evaluator': 1}
  for name, manifest in found.items():
    spec = manifest['spec']
    assert manifest['metadata']['name'] == f'lpg-demo-{name}'
    assert spec['completionMode'] == 'Indexed'
    assert spec['parallelism'] == spec['completions']
    assert pod(manifest)['restartPolicy'] == 'Never'
    # Exit codes of pods that are to be replaced never count as failures.
    rules = {code: rule['action'] for rule in spec['podFailurePolicy']['rules']
             for code in rule.get('onExitCodes', {}).get('values', ())}
    assert rules == {node.HOPELESS: 'FailJob', node.AGAIN: 'Ignore',
                     node.TERMINATED: 'Ignore'}
  assert found['meta-learner']['spec']['activeDeadlineSeconds'] == 12 * 3600
  assert 'activeDeadlineSeconds' not in found['bandit-server']['spec']


def test_no_pod_has_privileges(manifests):
  for manifest in jobs(manifests).values():
    own, whole = container(manifest)['securityContext'], pod(manifest)
    assert whole['automountServiceAccountToken'] is False
    assert whole['securityContext']['runAsNonRoot'] is True
    assert whole['securityContext']['runAsUser'] > 0
    assert whole['securityContext']['seccompProfile'] == {
        'type': 'RuntimeDefault'}
    assert own == {'allowPrivilegeEscalation': False, 'privileged': False,
                   'readOnlyRootFilesystem': True,
                   'capabilities': {'drop': ['ALL']}}
    assert not {'hostNetwork', 'hostPID', 'hostIPC', 'serviceAccountName'
                } & whole.keys()
    assert all('hostPath' not in volume for volume in whole['volumes'])


def test_only_the_programs_pods_reach_its_ports(manifests):
  policy = manifests['1_network_policy.yaml']['spec']
  own = {'matchLabels': {'app.kubernetes.io/name': 'lpg',
                         'app.kubernetes.io/instance': 'lpg-demo'}}
  assert policy['podSelector'] == own
  assert policy['policyTypes'] == ['Ingress']
  (rule,) = policy['ingress']
  assert rule['from'] == [{'podSelector': own}]
  listening = {port['containerPort'] for m in jobs(manifests).values()
               for port in container(m).get('ports', ())}
  assert {port['port'] for port in rule['ports']} == listening
  assert len(listening) == 3  # Learner, bandit server, queue.
  for manifest in jobs(manifests).values():
    labels = manifest['spec']['template']['metadata']['labels']
    assert own['matchLabels'].items() <= labels.items()


def test_addresses_of_nodes_are_the_names_of_their_pods(manifests):
  service = manifests['2_service.yaml']
  assert service['spec']['clusterIP'] == 'None'
  assert service['spec']['publishNotReadyAddresses'] is True
  ports = {}
  for manifest in jobs(manifests).values():
    assert pod(manifest)['subdomain'] == service['metadata']['name']
    labels = manifest['spec']['template']['metadata']['labels']
    assert service['spec']['selector'].items() <= labels.items()
    for port in container(manifest).get('ports', ()):
      ports[f'{manifest["metadata"]["name"]}-0.lpg-demo'] = (
          port['containerPort'])
      assert container(manifest)['readinessProbe']['tcpSocket'] == {
          'port': port['containerPort']}
  assert sorted(port['port'] for port in service['spec']['ports']) == sorted(
      ports.values())
  nodes = {name: base64.b64decode(data) for name, data
           in manifests['3_nodes.yaml']['binaryData'].items()}
  found = re.findall(rb'[\w-]+\.lpg-demo:\d+', b' '.join(nodes.values()))
  assert {f'{name}:{port}'.encode() for name, port in ports.items()} == set(
      found)
  assert len(pickle.loads(nodes['lifetime_worker.pkl'])) == 3


def test_resources_and_selectors_are_those_of_the_file(manifests):
  found = jobs(manifests)
  learner, worker = found['meta-learner'], found['lifetime-worker']
  assert container(learner)['resources'] == {
      'requests': {'cpu': '8', 'memory': '4096Mi', 'google.com/tpu': '4'},
      'limits': {'memory': '4096Mi', 'google.com/tpu': '4'}}
  assert pod(learner)['nodeSelector'] == {
      'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
      'cloud.google.com/gke-tpu-topology': '2x2'}
  assert container(learner)['image'] == 'registry.example/lpg-tpu:1'
  assert container(worker)['image'] == 'registry.example/lpg:1'
  assert container(worker)['resources']['limits']['nvidia.com/gpu'] == '1'
  assert pod(worker)['nodeSelector'] == {
      'nvidia.com/gpu.product': 'NVIDIA-L4'}
  assert pod(worker)['topologySpreadConstraints'][0]['maxSkew'] == 1
  for quiet in ('gradient-queue', 'bandit-server'):
    assert 'nodeSelector' not in pod(found[quiet])
    assert container(found[quiet])['resources']['limits'] == {
        'memory': '1536Mi'}
  shell, option, script = container(worker)['command']
  assert (shell, option) == ('bash', '-c')
  done = subprocess.run(
      [shell, option, script.replace('exec python', 'echo "$A" python')],
      capture_output=True, text=True, check=True, timeout=20)
  assert done.stdout == (
      'b c python -S '
      'lpg_distributed/launch/cluster/kubernetes/node.py lifetime_worker\n')


def test_probes_pass_only_with_a_recent_heartbeat(manifests, tmp_path):
  alive = tmp_path / 'alive'
  for manifest in jobs(manifests).values():
    probes = [container(manifest)[name]['exec']['command']
              for name in ('startupProbe', 'livenessProbe')]
    assert probes[0] == probes[1]
  *shell, script = probes[0]
  path, = (v['value'] for v in container(manifest)['env']
           if v['name'] == 'LPG_ALIVE')
  command = [*shell, script.replace(path, str(alive))]
  assert str(alive) in command[-1]
  ask = lambda: subprocess.run(command, capture_output=True, timeout=20,
                               check=False).returncode
  assert ask() != 0  # No heartbeat yet.
  alive.write_text('', encoding='utf-8')
  assert ask() == 0
  long_ago = time.time() - 120
  os.utime(alive, (long_ago, long_ago))
  assert ask() != 0


def test_directories_that_a_pod_writes_are_mounted(manifests):
  for manifest in jobs(manifests).values():
    mounts = [m['mountPath'] for m in container(manifest)['volumeMounts']
              if not m.get('readOnly')]
    names = {m['name'] for m in container(manifest)['volumeMounts']}
    assert names == {volume['name'] for volume in pod(manifest)['volumes']}
    for variable in container(manifest)['env']:
      if variable['name'] in ('HOME', 'TMPDIR', 'XDG_CACHE_HOME', 'LPG_ALIVE',
                              'LPG_END'):
        assert any((variable['value'] + '/').startswith(mount + '/')
                   for mount in mounts), variable


@pytest.mark.parametrize('text,message', [
    (RESOURCES.replace('image =', 'python ='), 'image is missing'),
    (RESOURCES.replace('lpg-demo', 'LPG'), "job.name is 'LPG'"),
    (RESOURCES.replace('lpg-demo', 'l' * 50), 'at most'),
    (RESOURCES.replace('hosts = 3', 'hosts = 4'), 'hosts is 4'),
    (RESOURCES.replace('"gradient_queue", ', ''), 'gradient_queue'),
])
def test_resources_that_do_not_fit_are_refused_in_one_line(text, message):
  from lpg_distributed.launch.cluster.kubernetes import manifests
  config = config_io.apply_overrides(presets.demo(), ['run.num_workers=3'])
  with pytest.raises(resources.ResourceError) as caught:
    job = resources.from_dict(tomli.loads(text))
    manifests.make(config, job, objects.Export(
        job.name, 'run', 'runs', 'abc', 'gpu'))
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_nodes_too_large_for_a_config_map_are_refused():
  some = objects.Export('lpg', 'run', 'runs', 'abc', 'gpu')
  with pytest.raises(resources.ResourceError, match='fewer workers'):
    objects.config_map(some, {'a': b'x' * 800_000})
  assert len(objects.config_map(some, {'a': b'x' * 700_000})['binaryData'])


@pytest.mark.parametrize('flag,message', [
    ('--run=../other', "--run is '../other'"), ('--resources=', '--resources')])
def test_a_refused_command_changes_nothing(flag, message, tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'thesis.tex').write_text('x', encoding='utf-8')
  done = export(tmp_path, RESOURCES, flag)
  assert done.returncode == 2
  assert message in done.stderr and done.stderr.count('\n') == 1, done.stderr
  assert os.listdir(tmp_path / 'out') == ['thesis.tex']


def test_a_directory_of_something_else_is_refused(tmp_path):
  from lpg_distributed.launch.cluster.kubernetes import manifests
  (tmp_path / 'thesis.tex').write_text('x', encoding='utf-8')
  with pytest.raises(errors.UserError, match='thesis.tex'):
    manifests.open_directory(str(tmp_path))
  (tmp_path / 'thesis.tex').unlink()
  (tmp_path / 'old.yaml').write_text('x', encoding='utf-8')
  manifests.open_directory(str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_a_learner_that_opens_the_run_directory_locks_it(tmp_path):
  """On Kubernetes, no launcher has made the directory."""
  from lpg_distributed import programs
  from lpg_distributed.store import run_directory
  config, path = config_lib.Config(), str(tmp_path / 'run')
  programs._open_run_dir(
      config, programs.Launch(path, True, opens_run_dir=True))
  with pytest.raises(config_lib.ConfigError, match='in use'):
    run_directory.RunDirectory.open(path, config)
  programs._HELD.pop().close()
  run_directory.RunDirectory.open(path, config).close()
  programs._open_run_dir(config, programs.Launch(str(tmp_path / 'b'), True))
  assert not (tmp_path / 'b').exists()


class _Pod:
  """A container's process, whose node runs the given script."""

  def __init__(self, directory, script, **variables):
    self.end = directory / 'run' / 'end'
    entry = directory / 'modules' / 'entry.py'
    entry.parent.mkdir(exist_ok=True)
    entry.write_text(script, encoding='utf-8')
    # The node's real module is Launchpad's entry; here it is the script.
    program = (f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
               'from lpg_distributed.launch.cluster.kubernetes import node\n'
               'node.ENTRY = "entry"; node._PATIENCE_S = 1.; '
               'node._TICK_S = 0.05\n'
               'sys.exit(node.NodeRunner("some_node").run())')
    self.alive = directory / 'alive' / 'alive'
    self.process = subprocess.Popen([sys.executable, '-c', program], env={
        **os.environ, 'PYTHONPATH': str(entry.parent),
        'LPG_END': str(self.end), 'LPG_ALIVE': str(self.alive),
        'LPG_NODES': str(directory), 'JOB_COMPLETION_INDEX': '2',
        'LPG_MAX_RESTARTS': '0', **variables})

  def wait(self):
    return self.process.wait(waiting.PATIENCE_S)


@pytest.mark.parametrize('script,variables,code,ends', [
    ('', {'LPG_LAST': '1'}, 0, '0\n'),
    ('', {}, node.AGAIN, None),
    ('raise SystemExit(70)', {}, node.HOPELESS, '70\n'),
    ('raise SystemExit(3)', {}, 1, None),
    ('raise SystemExit(3)', {'LPG_LAST': '1'}, 1, None),
    ('import sys; assert sys.argv[1:] == ["--data_file", '
     '__import__("os").environ["LPG_NODES"] + "/some_node.pkl", '
     '"--lp_task_id", "2"]', {'LPG_LAST': '1'}, 0, '0\n'),
])
def test_a_containers_exit_code_shows_how_its_node_ended(
    script, variables, code, ends, tmp_path):
  one = _Pod(tmp_path, script, **variables)
  assert one.wait() == code
  assert (one.end.read_text() if one.end.exists() else None) == ends


def test_a_service_ends_with_the_program(tmp_path):
  one = _Pod(tmp_path, 'import time; time.sleep(400)')
  waiting.until(one.alive.exists, 'a living node', process=one.process)
  one.end.parent.mkdir()
  one.end.write_text('0\n')
  assert one.wait() == 0


def test_a_worker_without_a_shard_waits_for_the_end(tmp_path):
  """Otherwise Kubernetes would replace its pod again and again."""
  one = _Pod(tmp_path, 'raise SystemExit(3)', LPG_IDLE='1,2')
  waiting.until(one.alive.exists, 'a living node', process=one.process)
  time.sleep(2.)  # More than `_PATIENCE_S` there.
  assert one.process.poll() is None
  one.end.parent.mkdir()
  one.end.write_text('0\n')
  assert one.wait() == 0


def test_manifests_name_the_workers_without_a_shard(manifests):
  """The demo has two shards, and the file three workers."""
  idle = {name: variable['value'] for name, job in jobs(manifests).items()
          for variable in container(job)['env']
          if variable['name'] == 'LPG_IDLE'}
  assert idle == {'lifetime-worker': '2'}


def test_a_worker_that_is_told_to_end_does_not_end_the_run(tmp_path):
  """It gets no SIGTERM, at which it would ask the learner to end the run."""
  script = ('import pathlib, signal, time\n'
            f'told = pathlib.Path({str(tmp_path / "told")!r})\n'
            'signal.signal(signal.SIGTERM, lambda *_: told.touch())\n'
            'time.sleep(400)')
  one = _Pod(tmp_path, script, LPG_STAY_S='1')
  waiting.until(one.alive.exists, 'a living node', process=one.process)
  begin = time.monotonic()
  one.process.send_signal(signal.SIGTERM)
  assert one.wait() == node.TERMINATED
  assert 1 <= time.monotonic() - begin < 200
  assert not (tmp_path / 'told').exists()
  assert not one.end.exists()


def test_only_workers_wait_before_they_are_killed(manifests):
  """They wait for less than the grace period of their pods."""
  stay = {name: variable['value'] for name, job in jobs(manifests).items()
          for variable in container(job)['env']
          if variable['name'] == 'LPG_STAY_S'}
  assert list(stay) == ['lifetime-worker']
  assert 0 < int(stay['lifetime-worker']) < objects.GRACE_S


def test_a_terminated_pod_is_not_complete(tmp_path):
  """Code 0 would make its index complete, and no pod would replace it."""
  one = _Pod(tmp_path, 'import time; time.sleep(400)', LPG_LAST='1')
  waiting.until(one.alive.exists, 'a living node', process=one.process)
  one.process.send_signal(signal.SIGTERM)
  assert one.wait() == node.TERMINATED
  assert not one.end.exists()
