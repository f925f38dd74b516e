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
import math
import re
import sys
from typing import Any, Mapping, Optional, Sequence

from lpg_distributed import fields
from lpg_distributed import files

if sys.version_info >= (3, 11):
  import tomllib
else:
  import tomli as tomllib

_TIME = re.compile(r'(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?')
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*')
_PORTS = re.compile(r'(\d+)-(\d+)')
_LARGEST = 1_000_000
_LARGEST_FILE = 1 << 20  # bytes
MEMORY_OPTIONS = ('mem', 'mem-per-cpu', 'none')
_TIME_TEXT = fields.Text(
    'minutes, minutes:seconds, hours:minutes:seconds, days-hours:minutes:'
    'seconds', _TIME)
_LINE = fields.Text('text of one line', one_line=True)
_LINES = fields.Tuple(_LINE, empty=True, meaning='a list of texts')
_OPTIONS = fields.Tuple(
    fields.Text('options of sbatch as --name=value', re.compile('--.*'),
                one_line=True), empty=True, meaning='a list of texts')


class ResourceError(fields.FieldError):
  """The resource file is not valid; the message is one line."""


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ResourceError(message)


def parse_time(text: str) -> int:
  """Converts a time of Slurm (M, M:S, H:M:S, D-H, D-H:M:S) to seconds."""
  days, *others = _TIME.fullmatch(_TIME_TEXT.check('time', text)).groups()
  numbers = [int(number) for number in others if number is not None]
  if days is not None or len(numbers) == 3:  # The first number is hours.
    hours, minutes, seconds = (numbers + [0, 0])[:3]
  else:
    hours, minutes, seconds = 0, *(numbers + [0])[:2]
  return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _line(default: str = '') -> Any:
  return fields.bounded(default, _LINE)


def _pattern(default: str, meaning: str, pattern: str) -> Any:
  return fields.bounded(default, fields.Text(
      meaning, re.compile(pattern), one_line=True))


def _count(default: int = 0, low: int = 0) -> Any:
  return fields.integer(default, low, _LARGEST)


@dataclasses.dataclass(frozen=True)
class SharedResources:
  """Fields that the job sets for all groups and a group can override."""
  # Empty: the cluster's default.
  partition: str = _pattern('', 'one name', f'({_NAME.pattern})?')
  # Time limit of the job; empty: the partition's limit.
  time: str = _pattern('', _TIME_TEXT.meaning, f'({_TIME.pattern})?')
  # Bash lines before Python, such as `module load`.
  setup: tuple[str, ...] = fields.bounded((), _LINES)
  # Python on the hosts; empty: that of the submitting command.
  python: str = _line()
  # File of a container image; empty: no container.
  image: str = _pattern('', 'letters, digits and ./:@+_-', r'[\w./:@+-]*')
  # Command that runs another one in the image. Replaced are `{image}`, `{job}`,
  # the directory that must be visible inside, and `{nv}`: `--nv`, which lets
  # Apptainer show GPUs, if the group has GPUs.
  image_command: str = _line('apptainer exec {nv} --bind {job} {image}')
  # More sbatch options, such as --constraint=x.
  options: tuple[str, ...] = fields.bounded((), _OPTIONS)
  # How memory is requested from Slurm: mem, mem-per-cpu, or none, for clusters
  # that reject such requests.
  memory_option: str = fields.choice('mem', MEMORY_OPTIONS)

  def __post_init__(self):
    fields.check(self, error=ResourceError)
    if self.time and parse_time(self.time) == 0:
      raise ResourceError('time is 0; allowed: more', 'time')


@dataclasses.dataclass(frozen=True)
class Group(SharedResources):
  """Nodes with the same resources."""
  name: str = _pattern('', 'letters, digits and _.-', f'({_NAME.pattern})?')
  # Labels of nodes; empty: the group's name.
  nodes: tuple[str, ...] = fields.bounded((), _LINES)
  tasks: int = _count()  # number of nodes; 0: as many as the program has
  hosts: int = _count(1, low=1)
  spare_hosts: int = _count()  # idle hosts that replace lost ones
  cpus: int = _count(1, low=1)  # per node
  memory_gb: float = fields.positive(4., _LARGEST)  # per node
  gpus: int = _count()  # per node
  gpu_type: str = _line()  # the cluster's name for it; empty: any
  tpus: int = _count()  # chips per node
  tpu_type: str = _line()  # for example tpu-v5-lite-podslice
  tpu_topology: str = _pattern('', 'as 2x4', r'(\d+(x\d+){1,2})?')
  # Whether nodes of a lost host may share the processors and memory of another
  # host with its nodes.
  crowd: bool = fields.flag(True)

  @property
  def memory_mb(self) -> int:
    """Memory per node in MiB."""
    return math.ceil(self.memory_gb * 1024)


@dataclasses.dataclass(frozen=True)
class JobResources(SharedResources):
  """The content of a resource file."""
  name: str = _pattern('lpg', 'letters, digits and _.-', _NAME.pattern)
  account: str = _line()
  qos: str = _line()
  # Queue again after a preemption or loss of a host.
  requeue: bool = fields.flag(True)
  # Ports that nodes may use, as 30000-30999; empty: any.
  ports: str = _line()
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


def _read_fields(where: str, kind: Any, content: Any, **given: Any) -> Any:
  """Builds a dataclass from a table of the file; `given` are not in it."""
  _require(isinstance(content, Mapping), f'{where} is no table')
  allowed = [field.name for field in dataclasses.fields(kind)
             if field.name not in ('groups', *given)]
  unknown = [name for name in content if name not in allowed]
  _require(not unknown, f'{where}.{unknown[0] if unknown else ""} is no field; '
           f'allowed: {", ".join(allowed)}')
  values = {name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()}
  if type(values.get('time')) is int:
    values['time'] = str(values['time'])
  try:
    return kind(**given, **values)
  except ResourceError as error:
    raise ResourceError(f'{where}.{error}') from None


def _make_group(name: str, content: Any, job: JobResources) -> Group:
  where = f'groups.{name}'
  _require(bool(_NAME.fullmatch(name)), f'{where}: a name has letters, digits '
           'and _.-')
  own = _read_fields(where, Group, content, name=name)
  group = dataclasses.replace(own, nodes=own.nodes or (name,), **{
      field.name: getattr(job, field.name)
      for field in dataclasses.fields(SharedResources)
      if field.name not in content})
  _require(not (group.gpus and group.tpus),
           f'{where} has gpus and tpus; allowed: one of them')
  for kind in ('gpu', 'tpu'):
    _require(bool(getattr(group, f'{kind}s')
                  or not getattr(group, f'{kind}_type')),
             f'{where}.{kind}_type is set and {kind}s is 0')
  _require(not group.tpu_topology or bool(group.tpus),
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
  job = _read_fields('job', JobResources, content.get('job', {}))
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
    text = files.read_text(path, _LARGEST_FILE)
    content = (files.parse_json(text) if path.endswith('.json')
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
