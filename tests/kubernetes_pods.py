"""Runs the pods of exported manifests on this machine, as root, by hand.

  python -m tests.kubernetes_pods

No Kubernetes: this plays the Job controller and the kubelet, and takes from the
manifests what a container gets: its command, variables, user, mounts, a root
that it cannot write to, no privilege, process ids of its own, and the names of
the other pods. One worker is told to end, and when the run has gone on from
there the learner's pod is killed. In the end eta must be that of the embedded
path, bit for bit. It shows that the manifests' commands do what they should; of
a cluster it shows nothing. It takes some minutes, and leaves nothing behind.
"""

import base64
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import yaml

from lpg_distributed.launch.cluster.kubernetes import node
from lpg_distributed.launch.local import isolation
from lpg_distributed.store import eta_file
from tests.launch import test_equivalence

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_STEPS = 300  # some seconds, so that it is in the middle that pods end
_OVERRIDES = [f'--set={override}' for override in (
    *test_equivalence.OVERRIDES, f'run.meta_steps={_STEPS}')]
_LONGEST_S = 1200
_RESOURCES = '''
[job]
name = "lpg"
image = "lpg"
[groups.services]
nodes = ["gradient_queue", "bandit_server", "meta_learner"]
[groups.lifetime_worker]
tasks = 2
setup = ["ulimit -c 0"]
'''
# What a container runtime does, with the tools of any Linux. Arguments: an
# empty directory for the root, that of the volume, that of the nodes' files,
# that of the packages, the user, and the command. A container's processes end
# with its first one, that with this one's parent, and that with this program.
_NAMESPACES = ['setpriv', '--pdeathsig=KILL',
               'unshare', '--mount', '--pid', '--fork']
_CONTAINER = '''
set -e
root=$1 runs=$2 nodes=$3 lpg=$4 user=$5; shift 5
mount -t tmpfs -o mode=755 none "$root"
bind() { mkdir -p "$root$2"; mount --rbind -o ro "$1" "$root$2"; }
for name in /usr /bin /sbin /lib /lib64; do
  if [ -L $name ]; then cp -P $name "$root$name"; else bind $name $name; fi
done
for name in /dev "$PREFIX" "$VENV"; do bind "$name" "$name"; done
mkdir "$root/proc"; mount -t proc none "$root/proc"
mkdir "$root/etc"; cp "$HOSTS" "$root/etc/hosts"
echo 'hosts: files' > "$root/etc/nsswitch.conf"
for name in envs launch lpg_distributed; do bind "$lpg/$name" /lpg/$name; done
bind "$nodes" /nodes
mkdir "$root/lpg/runs" "$root/tmp"
mount --bind "$runs" "$root/lpg/runs"
mount -t tmpfs -o mode=1777 none "$root/tmp"
mount -o remount,ro none "$root"
exec chroot "$root" setpriv --reuid=$user --regid=$user --clear-groups \\
  --pdeathsig=KILL --no-new-privs --bounding-set=-all --inh-caps=-all \\
  sh -c 'cd /lpg && ! touch /written 2> /dev/null && exec "$@"' sh "$@"
'''


class Pod:
  """One index of a Job, made again until it is done."""

  def __init__(self, job, index, directory):
    self.name = f'{job["metadata"]["name"]}-{index}'
    self._spec = job['spec']['template']['spec']
    self._index = index
    self._directory = directory
    self.codes = []
    self.start()

  def start(self):
    container, = self._spec['containers']
    root = self._directory / 'roots' / f'{self.name}.{len(self.codes)}'
    root.mkdir(parents=True)
    variables = {v['name']: v['value'] for v in container['env']}
    if 'LPG_STAY_S' in variables:
      variables['LPG_STAY_S'] = '1'  # The run is short.
    command = container['command']
    if container['command'][0] == 'python':
      command = [sys.executable, *command[1:]]
    with open(self._directory / 'logs' / self.name, 'a',
              encoding='utf-8') as log:
      self.process = subprocess.Popen(
          [*_NAMESPACES, 'sh', '-c', _CONTAINER, 'sh', str(root),
           str(self._directory / 'runs'), str(self._directory / 'nodes'),
           str(_ROOT), str(self._spec['securityContext']['runAsUser']),
           *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={
               **variables, 'JOB_COMPLETION_INDEX': str(self._index),
               'PATH': f'{os.path.dirname(sys.executable)}:/usr/bin:/bin:'
                       '/usr/sbin:/sbin',
               'PREFIX': sys.base_prefix, 'VENV': sys.prefix,
               'HOSTS': str(self._directory / 'hosts')})

  def signal(self, number):
    """Sends a signal to the container's first process, if there is one."""
    pid = self.process.pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      for child in pathlib.Path(
          f'/proc/{pid}/task/{pid}/children').read_text().split():
        os.kill(int(child), number)

  def end(self):
    while self.process.poll() is None:
      self.signal(signal.SIGKILL)
      time.sleep(0.05)

  def is_done(self):
    """Looks what became of it, as the Job controller does."""
    if self.codes[-1:] == [0]:
      return True
    code = self.process.poll()
    if code is None:
      return False
    self.codes.append(code)
    if code == node.HOPELESS or len(self.codes) > 5:
      raise RuntimeError(f'{self.name} ended with {self.codes}')
    if code:
      self.start()
    return code == 0


def _rows(directory):
  path = directory / 'runs' / 'lpg' / 'metrics' / 'learner.jsonl'
  return len(path.read_text().splitlines()) if path.exists() else 0


def _export(directory):
  (directory / 'resources.toml').write_text(_RESOURCES)
  subprocess.run(
      [sys.executable, '-m', 'launch.export_kubernetes', '--preset=demo',
       *_OVERRIDES, f'--resources={directory / "resources.toml"}',
       f'--out={directory / "out"}'], cwd=_ROOT, check=True)
  manifests = [yaml.safe_load(path.read_text())
               for path in sorted((directory / 'out').iterdir())]
  for name in ('runs', 'nodes', 'logs'):
    (directory / name).mkdir()
  os.chown(directory / 'runs', 1000, 1000)  # As `fsGroup` has it.
  for manifest in manifests:
    for name, data in manifest.get('binaryData', {}).items():
      (directory / 'nodes' / name).write_bytes(base64.b64decode(data))
  return [m for m in manifests if m['kind'] == 'Job']


def _faults(directory, worker, learner):
  """Ends two pods; to be advanced again and again while the program runs."""
  while _rows(directory) <= 5:
    yield
  print(f'{worker.name} is told to end after {_rows(directory)} meta-steps')
  worker.signal(signal.SIGTERM)
  while not worker.codes:
    yield
  rows = _rows(directory)
  while _rows(directory) <= rows + 20:  # The new one takes part.
    yield
  print(f'{learner.name} is killed after {_rows(directory)}')
  learner.signal(signal.SIGKILL)


def _run(directory):
  jobs = _export(directory)
  names = [f'{job["metadata"]["name"]}-{i}' for job in jobs
           for i in range(job['spec']['completions'])]
  # What cluster DNS answers for a headless Service. Not 127.0.0.1, from where
  # Reverb takes a process of its own number for itself, and follows pointers.
  hosts = {f'10.0.0.{i}': name for i, name in enumerate(names, 1)}
  for address in hosts:
    subprocess.run(['ip', 'address', 'add', address, 'dev', 'lo'], check=True)
  (directory / 'hosts').write_text('127.0.0.1 localhost\n' + ''.join(
      f'{address} {name}.lpg\n' for address, name in hosts.items()))
  pods, begin = {}, time.monotonic()
  try:
    for job in jobs:
      for i in range(job['spec']['completions']):
        pod = Pod(job, i, directory)
        pods[pod.name] = pod
    worker, learner = pods['lpg-lifetime-worker-1'], pods['lpg-meta-learner-0']
    faults, left = _faults(directory, worker, learner), list(pods.values())
    while left:
      left = [pod for pod in left if not pod.is_done()]
      next(faults, None)
      if time.monotonic() - begin > _LONGEST_S:
        raise TimeoutError(f'{_rows(directory)} meta-steps')
      time.sleep(0.05)
  finally:
    for pod in pods.values():
      pod.end()
  for pod in pods.values():
    print(f'{pod.name}: ended with {", ".join(map(str, pod.codes))}')
  assert worker.codes == [node.TERMINATED, 0], worker.codes
  # Not `unshare` of every version ends as what it waits for did.
  assert learner.codes in ([-signal.SIGKILL, 0], [1, 0]), learner.codes


def main():
  if os.geteuid() != 0:
    sys.exit('needs root, to make mounts')
  obstacle = isolation.isolate()
  if obstacle:
    sys.exit(f'no network of its own: {obstacle}')
  for number in (signal.SIGTERM, signal.SIGHUP):  # As Ctrl-C.
    signal.signal(number, lambda number, frame: sys.exit(128 + number))
  directory = pathlib.Path(tempfile.mkdtemp())
  os.environ['XDG_CACHE_HOME'] = str(directory / 'cache')
  directory.chmod(0o755)
  try:
    _run(directory)
    subprocess.run(
        [sys.executable, '-m', 'launch.meta_train', '--preset=demo',
         *_OVERRIDES, '--launch_type=embedded', '--noevaluate',
         f'--run_dir={directory / "embedded"}'], cwd=_ROOT, check=True,
        capture_output=True)
    found, wanted = (eta_file.load(str(path / 'eta.npz')) for path in (
        directory / 'runs' / 'lpg', directory / 'embedded'))
    assert found.info['meta_step'] == wanted.info['meta_step'] == _STEPS
    np.testing.assert_array_equal(found.eta, wanted.eta)
    print('the same eta, bit for bit')
  except BaseException:
    for log in sorted((directory / 'logs').iterdir()):
      print(f'--- {log.name}\n{log.read_text()[-3000:]}')
    raise
  finally:
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
  main()
