"""The nodes of a Slurm job as its leader sees them: placed, alive, lost.

One `srun` starts all nodes of a group. Each node's agent beats into a file; a
node whose agent is silent is lost, whether its host, its slurmd or the agent
alone is gone.
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

_START_S = 300.  # how long an agent may take to its first beat
# What sbatch was asked for holds for the hosts and not for a step.
_OF_SBATCH = ('SLURM_NTASKS_PER_NODE', 'SLURM_EXPORT_ENV',
              'SLURM_MEM_PER_NODE', 'SLURM_MEM_PER_CPU', 'SLURM_MEM_PER_GPU')
_MAX_LIVES = 10  # how often a node is placed anew within an attempt


@dataclasses.dataclass
class Node:
  """One node of the program, and what is known of it."""
  group: int
  index: int
  label: str
  number: int
  life: int = 0
  host: str = ''
  beat: Any = None
  heard: float = 0.  # when the last beat came, or when it was placed
  step: Optional[subprocess.Popen] = None
  ended: Optional[int] = None  # its code

  @property
  def name(self) -> str:
    return f'{self.label}/{self.number}'

  @property
  def file(self) -> str:
    return places.node_file(self.label, self.number)


def host_names(group: int, groups: int) -> list[str]:
  """The hosts that a group was given, in Slurm's order."""
  suffix = f'_HET_GROUP_{group}' if groups > 1 else ''
  names = os.environ[f'SLURM_JOB_NODELIST{suffix}']
  return commands.call('scontrol', 'show', 'hostnames', names).split()


class Steps:
  """All nodes of an attempt."""

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
    self.nodes = [Node(i, j, label, number)
                  for i, group in enumerate(self._groups)
                  for j, (label, number) in enumerate(group['nodes'])]

  def start(self) -> None:
    """Starts all nodes."""
    for i, group in enumerate(self._groups):
      nodes = [node for node in self.nodes if node.group == i]
      self._srun(nodes, self._hosts[i][:group['hosts']])

  def _srun(self, nodes: list[Node], hosts: list[str], life: int = 0) -> None:
    group = self._groups[nodes[0].group]
    het = ([f'--het-group={nodes[0].group}'] if len(self._groups) > 1 else [])
    # Slurm gives the tasks to the hosts in the hosts' own order.
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
                   'LPG_INDICES': ','.join(str(n.index) for n in nodes)}
    step = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                            env=environment, start_new_session=True)
    self._steps.append(step)
    for node in nodes:
      node.step, node.life, node.host = step, life, ''
      node.heard, node.beat = time.monotonic(), None

  def tell(self) -> None:
    """Lets agents know that somebody leads, and what they have to know."""
    self._beats += 1
    with contextlib.suppress(OSError):
      places.write_in_place(os.path.join(self._dir, places.LEADER), {
          'beats': self._beats, 'stop': self._stop,
          'lives': {node.file: node.life for node in self.nodes
                    if node.life}})

  def look(self) -> None:
    """Reads what agents have written."""
    now = time.monotonic()
    for node in self.nodes:
      if node.ended is not None:
        continue
      said = places.read(os.path.join(self._dir, 'beats', node.file))
      if said and said['life'] == node.life and said != node.beat:
        node.beat, node.heard, node.host = said, now, said['host']
        node.ended = said['code']

  def waited(self, seconds: float) -> None:
    """Nobody was heard for that long because nobody listened."""
    for node in self.nodes:
      node.heard += seconds

  def any_heard(self) -> bool:
    """Whether an agent has begun in this attempt."""
    return any(node.beat for node in self.nodes)

  def lost(self) -> list[Node]:
    """Nodes that have not ended and whose agents are silent."""
    now = time.monotonic()
    found = []
    for node in self.nodes:
      if node.ended is None:
        patience_s = self._hang_s if node.beat else max(_START_S, self._hang_s)
        # What a step that has ended has left has had a second to say so.
        gone = node.step.poll() is not None and now - node.heard > max(
            5., 3 * self._job['beat_s'])
        if gone or now - node.heard > patience_s:
          found.append(node)
    return found

  def place_anew(self, lost: Iterable[Node]) -> tuple[str, list[str]]:
    """Starts lost nodes on other hosts of their group.

    Returns:
      What hinders it, or nothing; and what happens, in lines.
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
    # A host is lost if nobody on it is heard.
    heard = {node.host for node in self.nodes
             if node not in lost and node.ended is None}
    self._lost_hosts |= {node.host for node in lost
                         if node.host and node.host not in heard}
    chosen: dict[str, list[Node]] = collections.defaultdict(list)
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
      life = 1 + max(node.life for node in nodes)
      self._srun(nodes, [host], life)
    self.tell()
    return '', lines

  def _host_for(self, node: Node, chosen) -> Optional[str]:
    """Where there is most room: its own host, a spare one, a crowded one."""
    group = self._groups[node.group]
    load = {host: len(chosen.get(host, ())) for host in self._hosts[node.group]
            if host not in self._lost_hosts}
    for other in self.nodes:
      if other.host in load and other.ended is None and other is not node and (
          other.step.poll() is None):
        load[other.host] += 1
    if not load:
      return None
    host = node.host if node.host in load else min(load, key=load.get)
    roomy = load[host] < group['nodes_per_host']
    return host if roomy or group['crowd'] else None

  def stop(self, how: str) -> None:
    """Tells all nodes to end."""
    self._stop = how
    self.tell()

  def alive(self) -> bool:
    """Whether a node that is not lost has not ended."""
    lost = self.lost()
    return any(node.ended is None and node not in lost for node in self.nodes)

  def close(self) -> None:
    """Ends what is left of the steps, of lost nodes for example."""
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
  """Of the whole job, also of a heterogeneous one."""
  return os.environ.get('SLURM_HET_JOB_ID') or os.environ['SLURM_JOB_ID']


def requeue() -> None:
  """Asks Slurm to begin this job anew.

  Raises:
    SlurmError: Slurm refuses.
  """
  commands.call('scontrol', 'requeue', _job_id())
