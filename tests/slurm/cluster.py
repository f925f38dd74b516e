"""A real Slurm cluster inside of this machine, for tests.

`slurmctld` and a `slurmd` for each host run in network namespaces that a
bridge joins, each with an address and a name of its own. All of it (network,
mounts, `/etc/hosts`, processes) lives in namespaces below one process, the
`init` of a process namespace: when that ends, or whoever started it ends, in
whatever way, the kernel ends and removes the rest. The hosts share one
directory, SHARED, which is in memory; each has a `/tmp` of its own, and none
has the packages of this repository.

Needs root, and Debian's packages `slurm-wlm`, `munge` and `iproute2`.

  python -m tests.slurm.cluster sinfo

runs a command on such a cluster's login host.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SHARED = pathlib.Path('/srv')
NUM_HOSTS = 4
CPUS, MEMORY_MB = 4, 16000
USER, USER_ID = 'researcher', 4242
_PROGRAMS = ('slurmctld', 'slurmd', 'munged', 'sinfo', 'ip', 'nsenter',
             'unshare', 'setpriv')
_PACKAGES = ('envs', 'launch', 'lpg_distributed', 'benchmarks', 'docs')
_START_S = 60.

_CONF = '''
ClusterName=lpg
SlurmctldHost=login(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={shared}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={shared}/state
SlurmdSpoolDir={shared}/spool/%n
SlurmctldPidFile={shared}/spool/slurmctld.pid
SlurmdPidFile={shared}/spool/%n.pid
SlurmctldLogFile={shared}/log/slurmctld.log
SlurmdLogFile={shared}/log/%n.log
SlurmctldParameters=enable_configless
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_yield_sleep=100000,sched_min_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=5
InactiveLimit=0
KillWait=30
MessageTimeout=5
PropagateResourceLimits=NONE
NodeName=host[1-{hosts}] CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=first Nodes=ALL PriorityTier=10 MaxTime=60 State=UP
'''


def missing() -> str:
  """What a cluster needs and is not here; empty if nothing."""
  if os.geteuid() != 0:
    return 'root'
  if SHARED in ROOT.parents:
    return f'a checkout elsewhere than below {SHARED}'
  names = [name for name in _PROGRAMS if not shutil.which(name)]
  return ', '.join(names)


def _children(pid: int) -> list[int]:
  path = f'/proc/{pid}/task/{pid}/children'
  return [int(word) for word in pathlib.Path(path).read_text().split()]


class Cluster:
  """Runs until it is closed, or until this process ends."""

  def __init__(self, num_hosts: int = NUM_HOSTS):
    self._unshare = subprocess.Popen(
        ['setpriv', '--pdeathsig=KILL', 'unshare', '--mount', '--net', '--uts',
         '--pid', '--fork', '--kill-child=KILL', '--mount-proc',
         sys.executable, '-m', 'tests.slurm.cluster', '--init',
         str(num_hosts)],
        cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
      answer = self._unshare.stdout.readline()
      if answer.strip() != b'ready':
        raise RuntimeError('the cluster did not start')
      self._init = _children(self._unshare.pid)[0]
      self.hosts = json.loads(self.path('hosts.json').read_text())
    except BaseException:
      self.close()
      raise

  def path(self, name) -> pathlib.Path:
    """What is called so in SHARED, as seen from outside."""
    return pathlib.Path(f'/proc/{self._init}/root{SHARED}') / name

  def command(self, *words, root=False) -> list[str]:
    """Runs `words` on the login host, as the user if not as root."""
    user = [] if root else [f'--reuid={USER_ID}', f'--regid={USER_ID}',
                            '--clear-groups']
    return ['nsenter', f'--target={self._init}', '--mount', '--net', '--uts',
            '--pid', 'setpriv', *user, '--pdeathsig=KILL', 'env',
            f'--chdir={SHARED}/home', f'HOME={SHARED}/home',
            f'PYTHONPATH={ROOT}', f'SLURM_CONF={SHARED}/etc/slurm.conf',
            'LOGNAME=' + ('root' if root else USER), *map(str, words)]

  def run(self, *words, root=False, timeout=60, check=True):
    """The finished command, with its output as text."""
    return subprocess.run(self.command(*words, root=root), check=check,
                          timeout=timeout, capture_output=True, text=True)

  def pids(self, host: str) -> list[int]:
    """All processes on a host, by their numbers here."""
    found = []
    for entry in os.listdir('/proc'):
      if entry.isdigit():
        try:
          if os.readlink(f'/proc/{entry}/ns/net') == self.hosts[host]:
            found.append(int(entry))
        except OSError:  # It has ended.
          continue
    return found

  def kill_host(self, host: str) -> None:
    """As a machine goes whose power fails: nothing of it says goodbye.

    So its network goes first: `srun` has a second process, which asks for the
    end of the step on all hosts if it outlives the first, by whatever little.
    """
    subprocess.run(
        ['nsenter', f'--target={self._init}', '--net', 'ip', 'link', 'set',
         _link(list(self.hosts).index(host)), 'down'], check=True, timeout=30)
    while pids := self.pids(host):
      for pid in pids:
        try:
          os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
          continue
      time.sleep(0.05)

  def logs(self, lines: int = 30) -> str:
    """The ends of the daemons' logs."""
    texts = []
    for file in sorted(self.path('log').iterdir()):
      text = file.read_text(errors='replace').splitlines()[-lines:]
      texts.append(f'== {file.name}\n' + '\n'.join(text))
    return '\n'.join(texts)

  def close(self) -> None:
    self._unshare.kill()
    self._unshare.wait()
    self._unshare.stdout.close()


def _link(number: int) -> str:
  """The bridge's end of the wire to a host."""
  return f'v{number}'


def _sh(*words) -> None:
  subprocess.run([str(word) for word in words], check=True, timeout=30)


def _open_to_all(*paths: pathlib.Path) -> None:
  """Lets everybody reach `paths`, in this mount namespace only.

  A checkout or a Python below a directory that only its owner may enter is
  put, at the same place, into an empty one that all may enter.
  """
  closed = {}
  for path in paths:
    for parent in reversed(path.parents):
      if not parent.stat().st_mode & 0o001:
        closed.setdefault(parent, []).append(path)
        break
  for parent, inside in closed.items():
    aside = []
    for i, path in enumerate(inside):
      aside.append(SHARED / f'aside{i}')
      aside[-1].mkdir()
      _sh('mount', '--bind', path, aside[-1])
    _sh('mount', '-t', 'tmpfs', '-o', 'mode=755', 'lpg', parent)
    for path, place in zip(inside, aside):
      path.mkdir(parents=True)
      _sh('mount', '--move', place, path)
      place.rmdir()


def _write_files(num_hosts: int) -> None:
  for name in ('etc', 'munge', 'state', 'spool', 'log', 'home', 'runs'):
    (SHARED / name).mkdir()
  names = [f'host{i + 1}' for i in range(num_hosts)]
  for name in names:
    (SHARED / 'spool' / name).mkdir()
  etc = SHARED / 'etc'
  (etc / 'slurm.conf').write_text(_CONF.format(
      shared=SHARED, hosts=num_hosts, cpus=CPUS, memory=MEMORY_MB))
  lines = ['127.0.0.1 localhost', '10.77.0.1 login']
  lines += [f'10.77.0.{10 + i} {name}' for i, name in enumerate(names)]
  (etc / 'hosts').write_text('\n'.join(lines) + '\n')
  for file, line in (
      ('passwd', f'{USER}:x:{USER_ID}:{USER_ID}::{SHARED}/home:/bin/sh'),
      ('group', f'{USER}:x:{USER_ID}:')):
    text = pathlib.Path('/etc', file).read_text()
    (etc / file).write_text(text.rstrip('\n') + f'\n{line}\n')
  for name in ('home', 'runs'):
    os.chown(SHARED / name, USER_ID, USER_ID)
  key = etc / 'munge.key'
  key.write_bytes(os.urandom(128))
  key.chmod(0o400)
  for file in ('hosts', 'passwd', 'group'):
    _sh('mount', '--bind', etc / file, f'/etc/{file}')


def _start_host(number: int, name: str) -> subprocess.Popen:
  """A `slurmd` in namespaces of its own, joined to the bridge."""
  hide = 'mount -t tmpfs lpg /tmp; '
  if pathlib.Path('/tmp') in ROOT.parents:  # The checkout stays in sight.
    aside = SHARED / 'spool' / name
    hide = (f'mount --bind {ROOT} {aside}; {hide}'
            f'mkdir -p {ROOT}; mount --move {aside} {ROOT}; ')
  hide += ''.join(f'mount -t tmpfs lpg {ROOT}/{package}; '
                  for package in _PACKAGES if (ROOT / package).exists())
  process = subprocess.Popen(
      ['unshare', '--mount', '--net', '--uts', 'sh', '-ec',
       f'hostname {name}; {hide}'
       'read start; exec slurmd -D -N "$0"', name],
      stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
      stderr=open(SHARED / 'log' / f'{name}.err', 'wb'),
      env={**os.environ, 'SLURM_CONF': f'{SHARED}/etc/slurm.conf'})
  own = os.readlink('/proc/self/ns/net')
  while os.readlink(f'/proc/{process.pid}/ns/net') == own:
    time.sleep(0.01)
  _sh('ip', 'link', 'add', _link(number), 'type', 'veth', 'peer', 'name',
      'eth0', 'netns', process.pid)
  _sh('ip', 'link', 'set', _link(number), 'master', 'br0', 'up')
  enter = ['nsenter', f'--target={process.pid}', '--net', 'ip']
  _sh(*enter, 'link', 'set', 'lo', 'up')
  _sh(*enter, 'addr', 'add', f'10.77.0.{10 + number}/24', 'dev', 'eth0')
  _sh(*enter, 'link', 'set', 'eth0', 'up')
  process.stdin.write(b'\n')
  process.stdin.close()
  return process


def _init(num_hosts: int) -> None:
  """The first process of the cluster: starts the others, and waits."""
  os.umask(0o022)
  _sh('hostname', 'login')
  _sh('mount', '-t', 'tmpfs', '-o', 'mode=755', 'lpg', SHARED)
  _open_to_all(ROOT, pathlib.Path(sys.base_prefix).resolve())
  _write_files(num_hosts)
  _sh('ip', 'link', 'set', 'lo', 'up')
  _sh('ip', 'link', 'add', 'br0', 'type', 'bridge')
  _sh('ip', 'addr', 'add', '10.77.0.1/24', 'dev', 'br0')
  _sh('ip', 'link', 'set', 'br0', 'up')
  munge = SHARED / 'munge'
  _sh('munged', f'--socket={munge}/socket', f'--pid-file={munge}/pid',
      f'--key-file={SHARED}/etc/munge.key', f'--log-file={munge}/log',
      f'--seed-file={munge}/seed', '--num-threads=2')
  os.environ['SLURM_CONF'] = f'{SHARED}/etc/slurm.conf'
  controller = subprocess.Popen(
      ['slurmctld', '-D'], stdout=subprocess.DEVNULL,
      stderr=open(SHARED / 'log' / 'slurmctld.err', 'wb'))
  hosts = {}
  for i in range(num_hosts):
    process = _start_host(i, f'host{i + 1}')
    hosts[f'host{i + 1}'] = os.readlink(f'/proc/{process.pid}/ns/net')
  (SHARED / 'hosts.json').write_text(json.dumps(hosts))
  deadline = time.monotonic() + _START_S
  while True:
    idle = subprocess.run(['sinfo', '-h', '-N', '-t', 'idle', '-o', '%N', '-p',
                           'main'], capture_output=True, text=True, timeout=30)
    if len(idle.stdout.split()) == num_hosts:
      break
    if time.monotonic() > deadline or controller.poll() is not None:
      raise RuntimeError(f'Slurm did not start: {idle}')
    time.sleep(0.2)
  print('ready', flush=True)
  while True:  # As init, of whoever has lost a parent.
    try:
      os.wait()
    except ChildProcessError:
      time.sleep(1.)


def main() -> int:
  if sys.argv[1:2] == ['--init']:
    _init(int(sys.argv[2]))
  if missing():
    print(f'needs {missing()}', file=sys.stderr)
    return 2
  cluster = Cluster()
  try:
    return subprocess.run(cluster.command(*sys.argv[1:])).returncode
  finally:
    cluster.close()


if __name__ == '__main__':
  sys.exit(main())
