"""The tests' cluster is a real one, and leaves nothing behind."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests import waiting
from tests.slurm import cluster as cluster_lib
from tests.slurm import conftest

pytestmark = [pytest.mark.processes, pytest.mark.long]


def test_hosts_have_names_addresses_and_files_of_their_own(cluster):
  answer = cluster.run(
      'srun', '--nodes=4', '--ntasks=4', '--time=1', 'sh', '-c',
      'echo $(hostname) $(id -un) $(ip -4 -o addr show dev eth0 | '
      'cut -d" " -f7) $(ls /tmp | grep -c host); touch /tmp/$(hostname)')
  assert sorted(answer.stdout.splitlines()) == [
      f'host{i} researcher 10.77.0.{9 + i}/24 0' for i in (1, 2, 3, 4)]


def test_only_the_shared_directory_is_shared(cluster):
  answer = cluster.run(
      'srun', '--nodes=2', '--ntasks=2', '--time=1', 'sh', '-c',
      f'ls {cluster_lib.ROOT}/launch | wc -l; '
      f'echo $(hostname) >> {cluster_lib.SHARED}/home/names')
  assert answer.stdout.split() == ['0', '0']
  assert len(cluster.path('home/names').read_text().split()) == 2


def _state():
  """What a cluster might leave behind, outside of itself."""
  links = subprocess.run(['ip', '-o', 'link'], capture_output=True, text=True,
                         check=True).stdout
  return (pathlib.Path('/proc/self/mounts').read_text(), links,
          *(pathlib.Path('/etc', name).read_text()
            for name in ('hosts', 'passwd', 'group')),
          sorted(os.listdir('/srv')),
          subprocess.run(['ip', 'netns'], capture_output=True, text=True,
                         check=True).stdout)


def _in_namespaces(namespaces):
  """Processes that are in one of the network namespaces."""
  found = []
  for entry in os.listdir('/proc'):
    if entry.isdigit():
      try:
        name = os.readlink(f'/proc/{entry}/ns/net')
      except OSError:
        continue
      if name in namespaces:
        found.append(int(entry))
  return found


# Makes a cluster, starts a job, says which namespaces there are, and then
# fails, or waits for what is done to it.
USER = '''
import os, sys, time
from tests.slurm import conftest
def test_something(capfd):
  cluster = conftest.make_cluster()
  cluster.run('sbatch', '--wrap=sleep 1000')
  with open({path!r}, 'w') as f:
    f.write(' '.join([*cluster.hosts.values(),
                      os.readlink(f'/proc/{{cluster._init}}/ns/net')]))
  os.rename({path!r}, {path!r} + '.whole')
  {then}
'''


@pytest.mark.parametrize('then, number', [
    ('assert False', 0), ('time.sleep(400)', signal.SIGTERM),
    ('time.sleep(400)', signal.SIGKILL)])
def test_nothing_is_left(tmp_path, then, number):
  """After a test that fails without closing, or a pytest that is killed."""
  conftest.make_cluster(num_hosts=1).close()  # Skips where there is none.
  before = _state()
  path = tmp_path / 'namespaces'
  (tmp_path / 'test_user.py').write_text(USER.format(path=str(path),
                                                     then=then))
  process = subprocess.Popen(
      [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
       f'--rootdir={cluster_lib.ROOT}', str(tmp_path / 'test_user.py')],
      cwd=cluster_lib.ROOT, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL)
  whole = pathlib.Path(f'{path}.whole')
  waiting.until(whole.exists, 'a cluster with a job',
                process=process if number else None)
  namespaces = whole.read_text().split()
  if number:
    assert len(_in_namespaces(namespaces)) >= 6  # Daemons, and a job.
    process.send_signal(number)
  assert process.wait(waiting.PATIENCE_S) == (-number if number else 1)
  waiting.until(lambda: not _in_namespaces(namespaces),
                'the end of all of the cluster')
  assert _state() == before
