"""The leader's view of the nodes of a Slurm job: placed, alive, lost.

One `srun` starts all nodes of a group. Each node's agent writes heartbeats to a
file. A node whose agent is silent is lost, whether its host, slurmd or only the
agent has failed.
"""

import collections
import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from typing import Any, Iterable, Mapping, Optional

from lpg_distributed.launch.cluster.slurm import commands
from lpg_distributed.launch.cluster.slurm import places

_START_S = 300.  # seconds that an agent may take until its first heartbeat
# Options of sbatch that must not apply to steps.
_OF_SBATCH = ('SLURM_NTASKS_PER_NODE', 'SLURM_EXPORT_ENV',
              'SLURM_MEM_PER_NODE', 'SLURM_MEM_PER_CPU', 'SLURM_MEM_PER_GPU')
_MAX_LIVES = 10  # largest number of times that a node is moved in an attempt


@dataclasses.dataclass
class NodeState:
  """One node of the program, and its state."""
  group: int
  index: int
  label: str
  number: int
  life: int = 0
  host: str = ''
  target: str = ''  # host on which it was placed last; '': Slurm chose it
  slot: int = 0  # number of its place on its host; it selects its GPUs
  beat: Any = None
  heard: float = 0.  # time of the last heartbeat, or of its placement
  step: Optional[subprocess.Popen] = None
  ended: Optional[int] = None  # its exit code; None: it has not ended

  @property
  def name(self) -> str:
    """Name of the node in messages."""
    return f'{self.label}/{self.number}'

  @property
  def place(self) -> str:
    """Its host, also if it has not begun there; '' if unknown."""
    return self.host or self.target

  @property
  def file(self) -> str:
    """Name of the node's files in the attempt's directories."""
    return places.node_file(self.label, self.number)


def host_names(group: int, groups: int) -> list[str]:
  """Returns the hosts of a group, in Slurm's order."""
  suffix = f'_HET_GROUP_{group}' if groups > 1 else ''
  names = os.environ[f'SLURM_JOB_NODELIST{suffix}']
  return commands.call('scontrol', 'show', 'hostnames', names).split()


class Steps:
  """The nodes of an attempt, and the steps that run them."""

  def __init__(self, job: Mapping[str, Any], job_dir: str, attempt_dir: str):
    self._job = job
    self._job_dir = job_dir
    self._dir = attempt_dir
    self._hang_s = float(job['hang_s'])
    self._groups = job['groups']
    self._hosts = [host_names(i, len(self._groups))
                   for i in range(len(self._groups))]
    self._lost_hosts: set[str] = set()
    self._steps: list[subprocess.Popen] = []
    self._beats, self._stop = 0, ''
    self.nodes = [NodeState(i, j, label, number)
                  for i, group in enumerate(self._groups)
                  for j, (label, number) in enumerate(group['nodes'])]

  def start(self) -> None:
    """Starts all nodes."""
    for i, group in enumerate(self._groups):
      nodes = [node for node in self.nodes if node.group == i]
      self._srun(nodes, self._hosts[i][:group['hosts']])

  def _srun(self, nodes: list[NodeState], hosts: list[str],
            life: int = 0) -> None:
    """Starts a step; the nodes of a first life get their slots from Slurm."""
    group = self._groups[nodes[0].group]
    het = ([f'--het-group={nodes[0].group}'] if len(self._groups) > 1 else [])
    # Slurm assigns tasks to hosts in its own order of hosts.
    command = [
        'srun', *het, '--overlap', '--no-kill', '--kill-on-bad-exit=0',
        '--wait=0', '--cpu-bind=none', f'--nodes={len(hosts)}',
        f'--nodelist={",".join(hosts)}', f'--ntasks={len(nodes)}',
        f'--cpus-per-task={1 if life else group["cpus"]}', '--export=ALL',
        *(['--mem=0'] if group['asks_memory'] else []),
        os.path.join(self._job_dir, f'group{nodes[0].group}.sh')]
    environment = {**{k: v for k, v in os.environ.items()
                      if k not in _OF_SBATCH}, 'LPG_LIFE': str(life),
                   'LPG_ATTEMPT': os.path.basename(self._dir),
                   'LPG_INDICES': ','.join(str(n.index) for n in nodes),
                   'LPG_SLOTS': ','.join(
                       str(n.slot) for n in nodes if life)}
    step = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                            env=environment, start_new_session=True)
    self._steps.append(step)
    for node in nodes:
      node.step, node.life, node.host = step, life, ''
      node.heard, node.beat = time.monotonic(), None

  def write_leader_file(self) -> None:
    """Writes the leader's file: its heartbeat and instructions to agents."""
    self._beats += 1
    with contextlib.suppress(OSError):
      places.write_in_place(os.path.join(self._dir, places.LEADER), {
          'beats': self._beats, 'stop': self._stop,
          'lives': {node.file: node.life for node in self.nodes
                    if node.life}})

  def read_heartbeats(self) -> None:
    """Reads the heartbeats of all agents."""
    now = time.monotonic()
    for node in self.nodes:
      if node.ended is not None:
        continue
      said = places.read_object(os.path.join(self._dir, 'beats', node.file))
      if said and said['life'] == node.life and said != node.beat:
        node.beat, node.heard, node.host = said, now, said['host']
        node.slot = said['slot']
        node.ended = said['code']

  def excuse_silence(self, seconds: float) -> None:
    """Excuses the agents' silence while this process did not read."""
    for node in self.nodes:
      node.heard += seconds

  def any_started(self) -> bool:
    """Returns whether any agent has started in this attempt."""
    return any(node.beat for node in self.nodes)

  def lost(self) -> list[NodeState]:
    """Returns the nodes that have not ended and whose agents are silent."""
    now = time.monotonic()
    found = []
    for node in self.nodes:
      if node.ended is None:
        patience_s = self._hang_s if node.beat else max(_START_S, self._hang_s)
        # If the step ended, allow a grace period for final heartbeats.
        gone = node.step.poll() is not None and now - node.heard > max(
            5., 3 * self._job['beat_s'])
        if gone or now - node.heard > patience_s:
          found.append(node)
    return found

  def replace_lost(self, lost: Iterable[NodeState]) -> tuple[str, list[str]]:
    """Starts lost nodes on other hosts of their group.

    Returns:
      The reason why it is impossible, or ''; messages about what was done.
    """
    lost = list(lost)
    lines = []
    if any(self._job['addresses'][node.label] for node in lost):
      names = ', '.join(node.name for node in lost
                        if self._job['addresses'][node.label])
      return f'others know the address of {names}', lines
    if len(self._groups) > 1:
      return ('Slurm ends a job of several groups when it loses a host of any',
              lines)
    tired = [node.name for node in lost if node.life >= _MAX_LIVES]
    if tired:
      return f'{tired[0]} was placed {_MAX_LIVES} times', lines
    # A host is lost if all of its agents are silent.
    heard = {node.host for node in self.nodes
             if node not in lost and node.ended is None}
    self._lost_hosts |= {node.host for node in lost
                         if node.host and node.host not in heard}
    chosen: dict[str, list[NodeState]] = collections.defaultdict(list)
    for node in lost:
      host = self._host_for(node, chosen)
      if host is None:
        return 'no other host of its group has room', lines
      chosen[host].append(node)
    for host, nodes in chosen.items():
      before = sorted({node.host or 'a host that never answered'
                       for node in nodes})
      names = ', '.join(node.name for node in nodes)
      lines.append(f'{names} of {", ".join(before)} goes on at {host}')
      lines += self._choose_slots(nodes, host, lost)
      life = 1 + max(node.life for node in nodes)
      self._srun(nodes, [host], life)
      for node in nodes:
        node.target = host
    self.write_leader_file()
    return '', lines

  def _choose_slots(self, nodes: list[NodeState], host: str,
                    lost: list[NodeState]) -> list[str]:
    """Gives nodes the slots of a host that the fewest nodes have.

    Slurm numbers the nodes of each step from 0, and so would give a node that
    was moved the GPUs of one that was there.

    Returns:
      Messages about nodes that share GPUs.
    """
    group = self._groups[nodes[0].group]
    users: dict[int, list[str]] = {
        slot: [] for slot in range(group['nodes_per_host'])}
    for other in self.nodes:
      if (other.group == nodes[0].group and other.place == host
          and other.ended is None and other not in lost):
        users.setdefault(other.slot, []).append(other.name)
    lines = []
    for node in nodes:
      node.slot = min(users, key=lambda slot: (len(users[slot]), slot))
      if users[node.slot] and group['gpus']:
        lines.append(f'{node.name} shares its GPUs with '
                     f'{", ".join(users[node.slot])}, since {host} has no '
                     'others; crowd = false, or spare_hosts, prevents it')
      users[node.slot].append(node.name)
    return lines

  def _host_for(self, node: NodeState, chosen) -> Optional[str]:
    """Selects a host: the node's own, else the one with the fewest nodes.

    None if no host has room.
    """
    group = self._groups[node.group]
    load = {host: len(chosen.get(host, ())) for host in self._hosts[node.group]
            if host not in self._lost_hosts}
    for other in self.nodes:
      if other.place in load and other.ended is None and other is not node and (
          other.step.poll() is None):
        load[other.place] += 1
    if not load:
      return None
    host = node.host if node.host in load else min(load, key=load.get)
    roomy = load[host] < group['nodes_per_host']
    return host if roomy or group['crowd'] else None

  def stop(self, how: str) -> None:
    """Tells all nodes to end; `how` is ORDERLY or QUICKLY of `places`."""
    self._stop = how
    self.write_leader_file()

  def alive(self) -> bool:
    """Returns whether any node is neither lost nor ended."""
    lost = self.lost()
    return any(node.ended is None and node not in lost for node in self.nodes)

  def close(self) -> None:
    """Ends the remaining steps, for example those of lost nodes."""
    deadline = time.monotonic() + 3.
    while time.monotonic() < deadline and any(
        step.poll() is None for step in self._steps):
      time.sleep(0.1)
    for step in self._steps:
      if step.poll() is None:
        step.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 5.
    for step in self._steps:
      try:
        step.wait(max(0., deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        step.kill()
        step.wait()


def _job_id() -> str:
  """Returns the number of the whole job, also if it is heterogeneous."""
  return os.environ.get('SLURM_HET_JOB_ID') or os.environ['SLURM_JOB_ID']


def requeue() -> None:
  """Asks Slurm to requeue this job.

  Raises:
    SlurmError: Slurm refuses.
  """
  commands.call('scontrol', 'requeue', _job_id())
