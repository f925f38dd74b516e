"""Checks before submission whether the cluster can satisfy the request."""

import os
from typing import Sequence

from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import commands

# Memory of the job's leader, which runs beside nodes of the first group.
LEADER_MB = 1024
_UNUSABLE = ('down', 'drained', 'draining', 'fail', 'failing', 'unknown',
             'future', 'powered_down', 'powering_down', 'reboot')
_UNLIMITED = ('infinite', 'n/a', '')


def memory_mb(placed: resources.PlacedGroup, leads: bool) -> int:
  """Returns the memory that a group needs on each of its hosts, in MiB."""
  return (placed.nodes_per_host * placed.group.memory_mb
          + (LEADER_MB if leads else 0))


def accelerators(placed: resources.PlacedGroup) -> list[tuple[str, int]]:
  """Returns the accelerators per host, as (name in Slurm, number)."""
  group = placed.group
  return [(kind + (f':{sort}' if sort else ''), count * placed.nodes_per_host)
          for kind, sort, count in (('gpu', group.gpu_type, group.gpus),
                                    ('tpu', group.tpu_type, group.tpus))
          if count]


def _refuse(placed: resources.PlacedGroup, message: str) -> None:
  raise resources.ResourceError(f'groups.{placed.group.name}{message}')


def _partition(placed, hosts) -> list[commands.Host]:
  """Returns the hosts of the group's partition."""
  name = placed.group.partition
  found = [host for host in hosts
           if (host.partition == name if name else host.default)]
  if not found:
    names = sorted({host.partition for host in hosts})
    _refuse(placed, f'.partition is {name!r}; allowed: {", ".join(names)}')
  return found


def _check_group(placed: resources.PlacedGroup, leads: bool,
                 hosts: Sequence[commands.Host]) -> None:
  group = placed.group
  inside = _partition(placed, hosts)
  name = inside[0].partition
  wanted = group.hosts + group.spare_hosts
  usable = [host for host in inside if host.state not in _UNUSABLE]
  if wanted > len(inside):
    _refuse(placed, f'.hosts and spare_hosts are {wanted}; allowed: at most '
            f'the {len(inside)} of partition {name}')
  cpus = placed.nodes_per_host * group.cpus
  memory = memory_mb(placed, leads)
  # A cluster that rejects requests for memory may not know its memory.
  memories = [] if group.memory_option == 'none' else [
      ('memory_gb', memory, 'MB', lambda host: host.memory_mb)]
  for field, need, unit, has in (
      ('cpus', cpus, 'processors', lambda host: host.cpus), *memories,
      *((kind.split(':')[0] + 's', count, kind,
         lambda host, kind=kind: host.accelerators.get(kind, 0))
        for kind, count in accelerators(placed))):
    fitting = [host for host in inside if has(host) >= need]
    if len(fitting) < wanted:
      largest = sorted(map(has, inside))[-wanted]
      _refuse(placed, f'.{field}: {placed.nodes_per_host} nodes on a host need '
              f'{need} {unit}; allowed: at most {largest}, which {wanted} '
              f'hosts of partition {name} have')
  if wanted > len(usable):
    _refuse(placed, f'.hosts and spare_hosts are {wanted}; of the '
            f'{len(inside)} hosts of partition {name} {len(usable)} are up')
  limit = inside[0].time_limit
  if (group.time and limit not in _UNLIMITED
      and resources.parse_time(group.time) > resources.parse_time(limit)):
    _refuse(placed, f'.time is {group.time}; allowed: at most {limit}, the '
            f'limit of partition {name}')
  if group.image and not os.path.exists(group.image):
    _refuse(placed, f'.image is {group.image!r}, which is not there; allowed: '
            'a file that this host sees')


def check(groups: Sequence[resources.PlacedGroup]) -> None:
  """Checks whether the groups fit on the hosts that Slurm reports.

  Raises:
    ResourceError: they do not. One line names the field and what is allowed.
    SlurmError: Slurm does not answer.
  """
  hosts = commands.hosts()
  for i, placed in enumerate(groups):
    _check_group(placed, i == 0, hosts)
