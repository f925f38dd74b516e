"""The Kubernetes objects of a program, as plain data.

- an Indexed Job for each kind of node
- a headless Service that gives the pods DNS names
- a ConfigMap with the serialised nodes
- a NetworkPolicy, by which only the program's pods can reach its ports

They need Kubernetes 1.31 or later. All functions are pure and need no cluster.
"""

import base64
import re
from typing import Any, Mapping, NamedTuple

from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.kubernetes import node

# Directories in a container; the images of `docker/` use the same.
ROOT, RUNS, NODES, TEMPORARY = '/lpg', '/lpg/runs', '/nodes', '/tmp'
USER = 1000
# Port of the first kind of node; each further kind has the next one.
FIRST_PORT = 7001
GRACE_S = 90  # to save a node's state; see `launch/local/supervisor.py`
# Seconds that a worker runs on after SIGTERM, for the last checkpoint.
_STAY_S = 60
_ALIVE = f'{TEMPORARY}/lpg/alive'
_LARGEST_MAP = 1_000_000  # bytes; the limit of Kubernetes is 1 MiB
_LONGEST_NAME = 63
_BACKOFF_LIMIT = 20


class NodeKind(NamedTuple):
  """A kind of node."""
  label: str
  number: int  # number of nodes
  group: resources.Group
  has_port: bool
  service: bool  # uses no accelerator
  optional: bool  # the program continues without it
  last: bool  # the program ends when it ends
  idle: tuple[int, ...] = ()  # numbers of the nodes that have nothing to do


class Export(NamedTuple):
  """Names that all objects share."""
  name: str
  run: str  # name of the run directory in the volume
  claim: str  # name of the volume's PersistentVolumeClaim (ReadWriteMany)
  attempt: str  # unique name of this export
  gpu_label: str  # label of a host that holds its type of GPU


def check_name(name: str, longest_label: str, tasks: int) -> None:
  """Raises ResourceError if `name` cannot be the prefix of pods' names."""
  allowed = _LONGEST_NAME - len(f'-{component(longest_label)}-{tasks - 1}')
  if not re.fullmatch(r'[a-z]([-a-z0-9]*[a-z0-9])?', name) or (
      len(name) > allowed):
    raise resources.ResourceError(
        f'job.name is {name!r}; allowed for Kubernetes: small letters, digits '
        f'and -, a letter first, at most {allowed}')


def component(label: str) -> str:
  """Converts a node's label to a form that Kubernetes allows in names."""
  return label.replace('_', '-')


def port(label: str, labels: list[str]) -> int:
  """Returns the port of nodes with this label."""
  return FIRST_PORT + labels.index(label)


def address(export: Export, label: str, number: int,
            labels: list[str]) -> str:
  """Returns a node's address.

  The Indexed Job determines the pod's name, the Service its domain.
  """
  return (f'{export.name}-{component(label)}-{number}.{export.name}:'
          f'{port(label, labels)}')


def _labels(export: Export, label: str = '') -> dict[str, str]:
  labels = {'app.kubernetes.io/name': 'lpg',
            'app.kubernetes.io/instance': export.name}
  return {**labels, 'app.kubernetes.io/component': component(label)
          } if label else labels


def _metadata(export: Export, name: str, label: str = '') -> dict[str, Any]:
  return {'name': name, 'labels': _labels(export, label)}


def network_policy(export: Export, ports: list[int]) -> dict[str, Any]:
  """Allows connections to the program's pods only from each other."""
  pods = {'matchLabels': _labels(export)}
  return {
      'apiVersion': 'networking.k8s.io/v1', 'kind': 'NetworkPolicy',
      'metadata': _metadata(export, export.name),
      'spec': {
          'podSelector': pods, 'policyTypes': ['Ingress'],
          'ingress': [{'from': [{'podSelector': pods}],
                       'ports': [{'protocol': 'TCP', 'port': number}
                                 for number in ports]}]}}


def service(export: Export, ports: Mapping[str, int]) -> dict[str, Any]:
  """Gives pods DNS names, also before they are ready."""
  return {
      'apiVersion': 'v1', 'kind': 'Service',
      'metadata': _metadata(export, export.name),
      'spec': {
          'clusterIP': 'None', 'publishNotReadyAddresses': True,
          'selector': _labels(export),
          'ports': [{'name': component(label), 'protocol': 'TCP',
                     'port': number} for label, number in ports.items()]}}


def config_map(export: Export, files: Mapping[str, bytes]) -> dict[str, Any]:
  """Holds the serialised nodes.

  Raises:
    ResourceError: the files are too large.
  """
  size = sum(4 * -(-len(content) // 3) for content in files.values())
  if size > _LARGEST_MAP:
    raise resources.ResourceError(
        f'the nodes take {size} bytes; a ConfigMap can have {_LARGEST_MAP}; '
        'allowed: fewer workers')
  return {
      'apiVersion': 'v1', 'kind': 'ConfigMap', 'immutable': True,
      'metadata': _metadata(export, _map_name(export)),
      'binaryData': {name: base64.b64encode(content).decode()
                     for name, content in files.items()}}


def _map_name(export: Export) -> str:
  return f'{export.name}-nodes-{export.attempt}'


def job(export: Export, kind: NodeKind, labels: list[str]) -> dict[str, Any]:
  """Runs all nodes of one kind."""
  spec = {
      'completionMode': 'Indexed',
      'completions': kind.number, 'parallelism': kind.number,
      'backoffLimit': _BACKOFF_LIMIT, 'podReplacementPolicy': 'Failed',
      'podFailurePolicy': {'rules': [
          {'action': 'FailJob', 'onExitCodes': {
              'operator': 'In', 'values': [node.HOPELESS]}},
          {'action': 'Ignore', 'onPodConditions': [
              {'type': 'DisruptionTarget', 'status': 'True'}]},
          {'action': 'Ignore', 'onExitCodes': {
              'operator': 'In', 'values': [node.AGAIN, node.TERMINATED]}}]},
      'template': {'metadata': {'labels': _labels(export, kind.label)},
                   'spec': _pod(export, kind, labels)}}
  if kind.group.time:
    spec['activeDeadlineSeconds'] = resources.parse_time(kind.group.time)
  return {'apiVersion': 'batch/v1', 'kind': 'Job',
          'metadata': _metadata(
              export, f'{export.name}-{component(kind.label)}', kind.label),
          'spec': spec}


def _pod(export: Export, kind: NodeKind, labels: list[str]) -> dict[str, Any]:
  group = kind.group
  pod = {
      'restartPolicy': 'Never',  # The Job creates a new pod of the same name.
      'subdomain': export.name,
      'terminationGracePeriodSeconds': GRACE_S,
      'automountServiceAccountToken': False, 'enableServiceLinks': False,
      'securityContext': {
          'runAsNonRoot': True, 'runAsUser': USER, 'runAsGroup': USER,
          'fsGroup': USER, 'fsGroupChangePolicy': 'OnRootMismatch',
          'seccompProfile': {'type': 'RuntimeDefault'}},
      'containers': [_container(export, kind, labels)],
      'volumes': [
          {'name': 'nodes', 'configMap': {'name': _map_name(export)}},
          {'name': 'runs', 'persistentVolumeClaim': {
              'claimName': export.claim}},
          {'name': 'temporary', 'emptyDir': {}}]}
  if group.hosts > 1:
    pod['topologySpreadConstraints'] = [{
        'maxSkew': 1, 'topologyKey': 'kubernetes.io/hostname',
        'whenUnsatisfiable': 'ScheduleAnyway',
        'labelSelector': {'matchLabels': _labels(export, kind.label)}}]
  selector = {}
  if group.gpu_type:
    selector[export.gpu_label] = group.gpu_type
  if group.tpu_type:
    selector['cloud.google.com/gke-tpu-accelerator'] = group.tpu_type
  if group.tpu_topology:
    selector['cloud.google.com/gke-tpu-topology'] = group.tpu_topology
  if selector:
    pod['nodeSelector'] = selector
  if group.gpus or group.tpus:  # Hosts with accelerators may be tainted.
    pod['tolerations'] = [{'key': _accelerator(group), 'operator': 'Exists',
                           'effect': 'NoSchedule'}]
  return pod


def _accelerator(group: resources.Group) -> str:
  return 'nvidia.com/gpu' if group.gpus else 'google.com/tpu'


def _container(export: Export, kind: NodeKind,
               labels: list[str]) -> dict[str, Any]:
  group = kind.group
  command = [
      'python', '-S', 'lpg_distributed/launch/cluster/kubernetes/node.py',
      kind.label]
  if group.setup:
    command = ['bash', '-c', '\n'.join(
        ['set -e', *group.setup, 'exec ' + ' '.join(command)])]
  amounts = {'cpu': str(group.cpus), 'memory': f'{group.memory_mb}Mi'}
  if group.gpus or group.tpus:
    amounts[_accelerator(group)] = str(group.gpus or group.tpus)
  # Processors are not limited, so that nodes can use idle ones.
  limits = {name: amount for name, amount in amounts.items() if name != 'cpu'}
  is_alive = f'test -n "$(find {_ALIVE} -mmin -1)"'
  probe = lambda **fields: {'exec': {'command': ['sh', '-c', is_alive]},
                            **fields}
  container = {
      'name': 'node', 'image': group.image, 'workingDir': ROOT,
      'command': command, 'env': _environment(export, kind),
      'resources': {'requests': amounts, 'limits': limits},
      'securityContext': {
          'allowPrivilegeEscalation': False, 'readOnlyRootFilesystem': True,
          'privileged': False, 'capabilities': {'drop': ['ALL']}},
      'startupProbe': probe(periodSeconds=5, failureThreshold=60),
      'livenessProbe': probe(periodSeconds=30, timeoutSeconds=10,
                             failureThreshold=3),
      'volumeMounts': [
          {'name': 'nodes', 'mountPath': NODES, 'readOnly': True},
          {'name': 'runs', 'mountPath': RUNS},
          {'name': 'temporary', 'mountPath': TEMPORARY}]}
  if kind.has_port:
    number = port(kind.label, labels)
    container['ports'] = [{'containerPort': number, 'protocol': 'TCP'}]
    container['readinessProbe'] = {
        'tcpSocket': {'port': number}, 'periodSeconds': 10}
  return container


def _environment(export: Export, kind: NodeKind) -> list[dict[str, Any]]:
  variables = {
      'HOME': TEMPORARY, 'TMPDIR': TEMPORARY,
      'XDG_CACHE_HOME': f'{TEMPORARY}/cache',
      'PYTHONUNBUFFERED': '1', 'PYTHONDONTWRITEBYTECODE': '1',
      'LPG_NODES': NODES, 'LPG_ALIVE': _ALIVE,
      'LPG_END': f'{RUNS}/{export.run}/tmp/end_{export.attempt}'}
  for name, is_set in (('LPG_SERVICE', kind.service),
                       ('LPG_OPTIONAL', kind.optional),
                       ('LPG_LAST', kind.last)):
    if is_set:
      variables[name] = '1'
  if kind.idle:
    variables['LPG_IDLE'] = ','.join(map(str, kind.idle))
  if not kind.service and not kind.last:
    variables['LPG_STAY_S'] = str(_STAY_S)
  return [{'name': name, 'value': value} for name, value in variables.items()]
