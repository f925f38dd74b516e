"""The agent of one node of a Slurm job, on the node's host.

  python -S -I lpg_distributed/launch/cluster/slurm/agent.py JOB_DIRECTORY GROUP

is started by `srun`, once per node. It needs the standard library only. It

- chooses a port and publishes the address
- runs the node under `launch/local/supervisor.py`
- writes heartbeats to a file, by which the job's leader knows that it is alive
- ends the node if the leader says so or is silent, or if the node was moved to
  another host
"""

import contextlib
import fcntl
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Optional

_ROOT = os.path.abspath(os.path.join(__file__, *['..'] * 5))
sys.path.insert(0, _ROOT)

from lpg_distributed.launch import process_environment  # noqa: E402
from lpg_distributed.launch import stopping  # noqa: E402
from lpg_distributed.launch.cluster.slurm import places  # noqa: E402

_TICK_S = 0.5
_QUICK_STOP_S = 5.  # seconds that a node has to end if nothing is to be saved
# Addresses that are reserved for documentation; nothing is sent there.
_ANY_ADDRESSES = ('192.0.2.1', '2001:db8::1')
_SIOCGIFADDR = 0x8915


def _is_own(ip: str) -> bool:
  """Returns whether other hosts can reach an address.

  Loopback and link-local addresses cannot be reached.
  """
  address = ipaddress.ip_address(ip)
  return not (address.is_loopback or address.is_unspecified
              or address.is_link_local)


def _ip_towards(other: str) -> str:
  """Returns this host's address on the route to `other`; '' if no route."""
  family = socket.AF_INET6 if ':' in other else socket.AF_INET
  try:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
      probe.connect((other, 9))
      ip = probe.getsockname()[0]
  except OSError:  # No route, or the protocol is not supported.
    return ''
  return ip if _is_own(ip) else ''


def _ips_of_interfaces() -> list[str]:
  """Returns the addresses of this host's interfaces, IPv4 first."""
  found = []
  with contextlib.suppress(OSError), (
      socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as any_socket:
    for _, name in socket.if_nameindex():
      with contextlib.suppress(OSError):  # An interface without an address.
        answer = fcntl.ioctl(any_socket, _SIOCGIFADDR,
                             struct.pack('256s', name.encode()))
        found.append(socket.inet_ntoa(answer[20:24]))
  with contextlib.suppress(OSError), open('/proc/net/if_inet6',
                                          encoding='ascii') as f:
    found += [str(ipaddress.ip_address(bytes.fromhex(line.split()[0])))
              for line in f]
  return [ip for ip in found if _is_own(ip)]


def own_ip() -> str:
  """Returns the address at which other hosts of the job reach this one.

  The host's name is not resolved, since it may give a loopback address. An IPv6
  address is put in brackets.
  """
  others = (os.environ.get('SLURM_LAUNCH_NODE_IPADDR', ''), *_ANY_ADDRESSES)
  found = [_ip_towards(other) for other in others if other]
  # Without a network all nodes are on this host.
  ip = next(filter(None, [*found, *_ips_of_interfaces()]), '127.0.0.1')
  return f'[{ip}]' if ':' in ip else ip


def free_port(ports: list[int], first: int) -> int:
  """Returns a port on which no process listens.

  Args:
    ports: lowest and highest allowed port; empty: any.
    first: offset at which the search starts; it differs between the agents of a
      host, so that they do not choose the same port.

  Raises:
    OSError: all ports are in use.
  """
  candidates = [0] * 10
  if ports:
    size = ports[1] - ports[0] + 1
    candidates = [ports[0] + (first + i) % size for i in range(size)]
  for port in candidates:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
      try:
        probe.bind(('', port))
      except OSError:
        continue
      return probe.getsockname()[1]
  raise OSError(f'no port of {ports} is free')


def accelerators(gpus: int, slot: int) -> dict[str, str]:
  """Returns variables that give each node of a host `gpus` GPUs of its own."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
  mine = visible.split(',') if visible else []
  if not gpus or len(mine) <= gpus:
    return {}
  begin = slot * gpus % len(mine)
  return {'CUDA_VISIBLE_DEVICES': ','.join(
      (mine + mine)[begin:begin + gpus])}


class NodeAgent:
  """The agent of one node."""

  def __init__(self, job_dir: str, group: int):
    self._job_dir = job_dir
    with open(os.path.join(job_dir, places.JOB_FILE), encoding='utf-8') as f:
      self._job = json.load(f)
    if 'LPG_ATTEMPT' not in os.environ:
      sys.exit('agent: LPG_ATTEMPT is not set: Slurm did not pass on the '
               'environment of the job\'s leader, perhaps because of '
               '--export in `options`')
    self._attempt = int(os.environ['LPG_ATTEMPT'])
    self._dir = places.attempt_dir(job_dir, self._attempt)
    self._life = int(os.environ.get('LPG_LIFE', '0'))
    self._group = self._job['groups'][group]
    process = int(os.environ.get('SLURM_PROCID', '0'))
    chosen = os.environ.get('LPG_INDICES', '')
    index = int(chosen.split(',')[process]) if chosen else process
    self._index = index
    # The leader chooses the slot of a node that it moves; else Slurm does.
    slots = os.environ.get('LPG_SLOTS', '')
    self._slot = int(slots.split(',')[process] if slots
                     else os.environ.get('SLURM_LOCALID', '0'))
    self._label, self._number = self._group['nodes'][index]
    self._file = places.node_file(self._label, self._number)
    self._log = os.path.join(self._job['logs'], self._label,
                             str(self._number))
    self._hang_s = float(self._job['hang_s'])
    self._parent = os.getppid()
    self._supervisor = None
    self._stopping = ''
    self._kill_at = float('inf')
    stopping.take_back()
    stopping.install(lambda number, frame: self._stop('a signal'))

  def _report(self, text: str) -> None:
    """Writes to the node's log, since Slurm's output ends with the leader."""
    with contextlib.suppress(OSError), open(self._log, 'a',
                                            encoding='utf-8') as f:
      f.write(f'agent on {socket.gethostname()}: {text}\n')

  def _path(self, directory: str) -> str:
    return os.path.join(self._dir, directory, self._file)

  def _stop(self, why: str) -> None:
    first, self._stopping = not self._stopping, self._stopping or why
    if first and why != 'a signal':
      self._report(f'ends: {why}')
    if self._supervisor is not None and self._supervisor.poll() is None:
      self._supervisor.send_signal(signal.SIGTERM)

  def _publish(self) -> None:
    """Chooses the node's ports, and publishes its addresses."""
    ip = own_ip()
    for i, name in enumerate(self._job['addresses'][self._label]):
      port = free_port(self._job['ports'], 8 * self._index + i)
      places.write(f'{self._path("addresses")}.{name}', f'{ip}:{port}')

  def _environment(self) -> dict[str, str]:
    variables = (process_environment.SERVICE
                 if self._label in self._job['services']
                 else process_environment.WORKER)
    return {
        **process_environment.environment(variables),
        **accelerators(self._group['gpus'], self._slot),
        places.VARIABLE: self._dir,
        'LPG_NODE': self._label, 'LPG_PYTHON': sys.executable,
        'LPG_LAUNCHER_PID': str(os.getpid()),
        'LPG_PIDS': os.path.join(self._dir, 'pids'),
        'LPG_DEATHS': self._path('deaths'),
        'LPG_MAX_RESTARTS': str(self._job['max_restarts']),
        'LPG_HANG_S': str(self._hang_s),
        'LPG_OPTIONAL': '1' if self._label in self._job['optional'] else ''}

  def _start(self) -> None:
    os.makedirs(os.path.dirname(self._log), exist_ok=True)
    with open(self._log, 'a', encoding='utf-8') as f:
      self._supervisor = subprocess.Popen(
          [sys.executable, '-S', '-I',
           os.path.join(_ROOT, 'lpg_distributed', 'launch', 'local',
                        'supervisor.py'),
           '-m', self._job['entry'], *self._job['arguments'],
           '--data_file', os.path.join(self._job_dir, 'nodes',
                                       f'{self._label}.pkl'),
           '--lp_task_id', str(self._number)],
          stdin=subprocess.DEVNULL, stdout=f, stderr=f,
          env=self._environment())

  def run(self) -> int:
    """Runs until the node has ended; returns its supervisor's exit code."""
    self._publish()
    self._start()
    if self._stopping:  # The signal came before the start.
      self._supervisor.send_signal(signal.SIGTERM)
    beats, next_beat = 0, 0.
    leader, leader_since = None, time.monotonic()
    before = time.monotonic()
    while self._supervisor.poll() is None:
      now = time.monotonic()
      if now - before > 5 * _TICK_S:  # Suspended, or the file system stalled.
        leader_since = now
      before = now
      if now > self._kill_at:  # The node ends with its supervisor.
        self._supervisor.kill()
      if now >= next_beat:
        beats, next_beat = beats + 1, now + self._job['beat_s']
        self._beat(beats)
        said = places.read_object(os.path.join(self._dir, places.LEADER))
        if said is not None and said != leader:
          leader, leader_since = said, now
        self._look(leader or {}, now - leader_since)
      time.sleep(_TICK_S)
    code = self._supervisor.returncode
    if self._stopping and code < 0:
      code = 0
    self._beat(beats + 1, code)
    return code

  def _try(self, call) -> None:
    """Calls `call`; a full or missing file system must not end the node."""
    try:
      call()
    except OSError as error:
      self._report(f'cannot write: {error}')

  def _beat(self, beats: int, code: Optional[int] = None) -> None:
    self._try(lambda: places.write_in_place(self._path('beats'), {
        'host': os.environ.get('SLURMD_NODENAME', socket.gethostname()),
        'pid': os.getpid(), 'life': self._life, 'slot': self._slot,
        'beats': beats, 'code': code}))

  def _look(self, leader: dict[str, Any], leader_silent_s: float) -> None:
    """Checks whether the node must end, and ends it."""
    if leader.get('stop'):
      if leader['stop'] == places.QUICKLY:
        self._kill_at = min(self._kill_at, time.monotonic() + _QUICK_STOP_S)
      self._stop('all nodes end')
    elif leader.get('lives', {}).get(self._file, 0) > self._life:
      self._stop('it was placed on another host')
    elif places.attempts(self._job_dir)[-1:] != [self._attempt]:
      self._stop('the job was started anew')
    elif os.getppid() != self._parent:
      self._stop('Slurm is gone from this host')
    elif leader_silent_s > 2 * self._hang_s and not self._stopping:
      self._report(f'the job\'s leader has been silent for '
                f'{leader_silent_s:.0f} s')
      self._ask_slurm()
      self._stop('nobody leads the job')

  def _ask_slurm(self) -> None:
    """Asks Slurm to requeue or cancel the job, which has no leader."""
    job_id = os.environ.get('SLURM_HET_JOB_ID') or os.environ['SLURM_JOB_ID']
    command = (['scontrol', 'requeue', job_id] if self._job['requeue']
               else ['scancel', job_id])
    try:
      done = subprocess.run(command, timeout=30, check=False,
                            stdin=subprocess.DEVNULL, capture_output=True)
      self._report(f'asked Slurm: {" ".join(command)}: {done.returncode} '
                + done.stderr.decode(errors='replace').strip())
    except (OSError, subprocess.TimeoutExpired) as error:
      self._report(f'cannot ask Slurm: {error}')


if __name__ == '__main__':
  sys.exit(NodeAgent(sys.argv[1], int(sys.argv[2])).run())
