"""Resource files: where the nodes of a program run on a cluster.

  [job]
  time = "12:00:00"
  partition = "cpu"

  [groups.services]
  nodes = ["meta_learner", "gradient_queue", "bandit_server"]
  cpus = 2
  memory_gb = 6

  [groups.lifetime_worker]
  tasks = 32
  hosts = 4
  memory_gb = 4

The format is TOML or JSON. A *node* is a process of the program, a *host* is a
machine. `JobResources` and `Group` describe all fields. A group can override
the fields of `SharedResources` that the job sets for all groups.
"""

import dataclasses
import json
import math
import re
import sys
from typing import Any, Mapping, Optional, Sequence

from lpg_distributed import errors

if sys.version_info >= (3, 11):
  import tomllib
else:
  import tomli as tomllib

_TIME = re.compile(r'(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?')
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*')
_PORTS = re.compile(r'(\d+)-(\d+)')
_TOPOLOGY = re.compile(r'\d+(x\d+){1,2}')
_IMAGE = re.compile(r'[\w./:@+-]*')
_LARGEST = 1_000_000
MEMORY_OPTIONS = ('mem', 'mem-per-cpu', 'none')


class ResourceError(errors.UserError, ValueError):
  """The resource file is not valid; the message is one line."""


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ResourceError(message)


def parse_time(text: str) -> int:
  """Converts a time of Slurm (M, M:S, H:M:S, D-H, D-H:M:S) to seconds."""
  match = _TIME.fullmatch(text)
  _require(match is not None, f'time is {text!r}; allowed: minutes, '
           'minutes:seconds, hours:minutes:seconds, days-hours:minutes:seconds')
  days, *others = match.groups()
  numbers = [int(number) for number in others if number is not None]
  if days is not None or len(numbers) == 3:  # The first number is hours.
    hours, minutes, seconds = (numbers + [0, 0])[:3]
  else:
    hours, minutes, seconds = 0, *(numbers + [0])[:2]
  return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


@dataclasses.dataclass(frozen=True)
class SharedResources:
  """Fields that the job sets for all groups and a group can override."""
  partition: str = ''  # empty: the cluster's default
  time: str = ''  # time limit of the job; empty: the partition's limit
  setup: tuple[str, ...] = ()  # bash lines before Python, such as `module load`
  python: str = ''  # Python on the hosts; empty: that of the submitting command
  image: str = ''  # file of a container image; empty: no container
  # Command that runs another one in the image. `{image}` and `{job}`, the
  # directory that must be visible inside, are replaced.
  image_command: str = 'apptainer exec --bind {job} {image}'
  options: tuple[str, ...] = ()  # more sbatch options, such as --constraint=x
  # How memory is requested from Slurm: mem, mem-per-cpu, or none, for clusters
  # that reject such requests.
  memory_option: str = 'mem'


@dataclasses.dataclass(frozen=True)
class Group(SharedResources):
  """Nodes with the same resources."""
  name: str = ''
  nodes: tuple[str, ...] = ()  # labels of nodes; empty: the group's name
  tasks: int = 0  # number of nodes; 0: as many as the program has
  hosts: int = 1
  spare_hosts: int = 0  # idle hosts that replace lost ones
  cpus: int = 1  # per node
  memory_gb: float = 4.  # per node
  gpus: int = 0  # per node
  gpu_type: str = ''  # the cluster's name for it; empty: any
  tpus: int = 0  # chips per node
  tpu_type: str = ''  # for example tpu-v5-lite-podslice
  tpu_topology: str = ''  # for example 2x4
  # Whether nodes of a lost host may share the processors and memory of another
  # host with its nodes.
  crowd: bool = True

  @property
  def memory_mb(self) -> int:
    """Memory per node in MiB."""
    return math.ceil(self.memory_gb * 1024)


@dataclasses.dataclass(frozen=True)
class JobResources(SharedResources):
  """The content of a resource file."""
  name: str = 'lpg'
  account: str = ''
  qos: str = ''
  requeue: bool = True  # queue again after a preemption or loss of a host
  ports: str = ''  # ports that nodes may use, as 30000-30999; empty: any
  groups: tuple[Group, ...] = ()


@dataclasses.dataclass(frozen=True)
class PlacedGroup:
  """A group with its nodes, each as (label, number within the label)."""
  group: Group
  nodes: tuple[tuple[str, int], ...]

  @property
  def nodes_per_host(self) -> int:
    """Number of nodes per host, rounded up."""
    return -(-len(self.nodes) // self.group.hosts)


def _value(where: str, name: str, kind: Any, value: Any) -> Any:
  """Converts `value` to the type `kind` of a field, or raises an error."""
  if kind is bool:
    _require(type(value) is bool, f'{where}.{name} is {value!r}; allowed: '
             'true, false')
  elif kind is int:
    _require(type(value) is int and 0 <= value <= _LARGEST,
             f'{where}.{name} is {value!r}; allowed: a whole number, 0 to '
             f'{_LARGEST}')
  elif kind is float:
    _require(type(value) in (int, float) and 0 < value <= _LARGEST,  # Not NaN.
             f'{where}.{name} is {value!r}; allowed: a number above 0')
  elif kind is str:
    if name == 'time' and type(value) is int:
      value = str(value)
    _require(type(value) is str and value.isprintable(),
             f'{where}.{name} is {value!r}; allowed: text of one line')
  else:
    _require(type(value) is list and all(
        type(v) is str and v.isprintable() for v in value),
             f'{where}.{name} is {value!r}; allowed: a list of texts')
    value = tuple(value)
  return value


def _read_fields(where: str, kind: Any, content: Any, given: Mapping) -> Any:
  _require(isinstance(content, Mapping), f'{where} is no table')
  fields = {f.name: f.type for f in dataclasses.fields(kind)
            if f.name not in ('groups', *given)}
  unknown = [name for name in content if name not in fields]
  _require(not unknown, f'{where}.{unknown[0] if unknown else ""} is no field; '
           f'allowed: {", ".join(fields)}')
  return kind(**given, **{name: _value(where, name, fields[name], value)
                          for name, value in content.items()})


def _check(where: str, shared: SharedResources) -> None:
  if shared.time:
    try:
      _require(parse_time(shared.time) > 0, 'time is 0; allowed: more')
    except ResourceError as error:
      raise ResourceError(f'{where}.{error}') from None
  _require(not shared.partition or bool(_NAME.fullmatch(shared.partition)),
           f'{where}.partition is {shared.partition!r}; allowed: one name')
  _require(bool(_IMAGE.fullmatch(shared.image)), f'{where}.image is '
           f'{shared.image!r}; allowed: letters, digits and ./:@+_-')
  _require(shared.memory_option in MEMORY_OPTIONS, f'{where}.memory_option is '
           f'{shared.memory_option!r}; allowed: {", ".join(MEMORY_OPTIONS)}')
  for option in shared.options:
    _require(option.startswith('--'), f'{where}.options has {option!r}; '
             'allowed: options of sbatch as --name=value')


def _make_group(name: str, content: Any, job: JobResources) -> Group:
  where = f'groups.{name}'
  _require(bool(_NAME.fullmatch(name)), f'{where}: a name has letters, digits '
           'and _.-')
  inherited = {} if not isinstance(content, Mapping) else {
      field.name: getattr(job, field.name)
      for field in dataclasses.fields(SharedResources)
      if field.name not in content}
  own = _read_fields(where, Group, content, {'name': name})
  group = dataclasses.replace(own, **inherited,
                              nodes=own.nodes or (name,))
  for field in ('hosts', 'cpus'):
    _require(getattr(group, field) > 0,
             f'{where}.{field} is 0; allowed: 1 and more')
  _check(where, group)
  _require(not (group.gpus and group.tpus),
           f'{where} has gpus and tpus; allowed: one of them')
  for kind in ('gpu', 'tpu'):
    _require(bool(getattr(group, f'{kind}s')
                  or not getattr(group, f'{kind}_type')),
             f'{where}.{kind}_type is set and {kind}s is 0')
  _require(not group.tpu_topology
           or bool(group.tpus and _TOPOLOGY.fullmatch(group.tpu_topology)),
           f'{where}.tpu_topology is {group.tpu_topology!r}; allowed: as 2x4, '
           'with tpus')
  return group


def from_dict(content: Any) -> JobResources:
  """Converts the parsed content of a resource file.

  Raises:
    ResourceError: it is not valid. The message names the field and what is
      allowed.
  """
  _require(isinstance(content, Mapping), 'the resource file is no table')
  unknown = [name for name in content if name not in ('job', 'groups')]
  _require(not unknown, f'{unknown[0] if unknown else ""} is no table of a '
           'resource file; allowed: job, groups')
  job = _read_fields('job', JobResources, content.get('job', {}), {})
  _check('job', job)
  _require(bool(_NAME.fullmatch(job.name)),
           f'job.name is {job.name!r}; allowed: letters, digits and _.-')
  if job.ports:
    port_range(job)
  groups = content.get('groups')
  _require(isinstance(groups, Mapping) and bool(groups),
           'groups is missing; allowed: one table for each group')
  job = dataclasses.replace(job, groups=tuple(
      _make_group(name, group, job) for name, group in groups.items()))
  labels = [label for group in job.groups for label in group.nodes]
  twice = [label for label in labels if labels.count(label) > 1]
  _require(not twice, f'{twice[0] if twice else ""} is in two groups')
  return job


def load(path: str) -> JobResources:
  """Reads a resource file.

  Raises:
    ResourceError: it cannot be read, or is not valid.
  """
  try:
    with open(path, encoding='utf-8') as f:
      text = f.read()
    content = (json.loads(text) if path.endswith('.json')
               else tomllib.loads(text))
  except OSError as error:
    raise ResourceError(f'--resources={path} cannot be read: '
                        f'{error.strerror}') from None
  except (ValueError, RecursionError) as error:
    raise ResourceError(f'--resources={path} is not readable: '
                        f'{error}') from None
  try:
    return from_dict(content)
  except ResourceError as error:
    raise ResourceError(f'--resources={path}: {error}') from None


def port_range(job: JobResources) -> Optional[range]:
  """Returns the ports that nodes may use; None: any."""
  if not job.ports:
    return None
  match = _PORTS.fullmatch(job.ports)
  ports = range(int(match.group(1)), int(match.group(2)) + 1) if match else []
  _require(len(ports) > 0 and ports[0] >= 1024 and ports[-1] < 65536,
           f'job.ports is {job.ports!r}; allowed: as 30000-30999, within 1024 '
           'to 65535')
  return ports


def tasks_of(job: JobResources, label: str,
             counts: Mapping[str, int]) -> Optional[int]:
  """Returns the number of nodes called `label` in the file; None if not given.

  Args:
    job: the resource file.
    label: label of the nodes whose number is to be found.
    counts: numbers of the other nodes, by label.
  """
  for group in job.groups:
    if label in group.nodes and group.tasks:
      others = sum(counts.get(n, 0) for n in group.nodes if n != label)
      _require(group.tasks > others,
               f'groups.{group.name}.tasks is {group.tasks}; allowed: more '
               f'than the {others} nodes that are not {label}')
      return group.tasks - others
  return None


def place(job: JobResources,
          counts: Mapping[str, int]) -> tuple[PlacedGroup, ...]:
  """Assigns each node of a program to a group.

  Args:
    job: the resource file.
    counts: numbers of the program's nodes, by label.

  Returns:
    The groups, each with its nodes in the program's order. The group with the
    program's first label comes first.

  Raises:
    ResourceError: the file does not match the program.
  """
  labels = list(counts)
  for group in job.groups:
    for label in group.nodes:
      _require(label in counts, f'groups.{group.name} has {label!r}, which is '
               f'no node of this program; allowed: {", ".join(labels)}')
  grouped = {label: group for group in job.groups for label in group.nodes}
  left = [label for label in labels if label not in grouped]
  _require(not left, f'no group has {", ".join(left)}')
  placed = []
  for group in sorted(job.groups, key=lambda g: labels[0] not in g.nodes):
    nodes = tuple((label, i) for label in labels if label in group.nodes
                  for i in range(counts[label]))
    _require(group.tasks in (0, len(nodes)),
             f'groups.{group.name}.tasks is {group.tasks}, and the program '
             f'has {len(nodes)} such nodes; allowed: that number, or none')
    _require(group.hosts <= len(nodes),
             f'groups.{group.name}.hosts is {group.hosts}, for {len(nodes)} '
             'nodes; allowed: at most one for each')
    placed.append(PlacedGroup(group, nodes))
    _require(not group.tpus or placed[-1].nodes_per_host == 1,
             f'groups.{group.name} has {placed[-1].nodes_per_host} nodes on a '
             'host with TPUs; allowed: one, since a TPU belongs to one process')
  return tuple(placed)


def by_label(groups: Sequence[PlacedGroup]) -> dict[str, Group]:
  """Returns the group of each label, for launchers without mixed groups."""
  return {label: placed.group for placed in groups
          for label in placed.group.nodes}
