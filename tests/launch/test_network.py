"""Attackers on another network and on this machine reach no node.

Courier runs any code of its callers, so that no port of a node may be reached.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile

import courier
import portpicker
import pytest

from lpg_distributed.launch import process_environment
from lpg_distributed.launch.local import facade_process
from lpg_distributed.launch.local import isolation
from tests import chaos
from tests import waiting

pytestmark = pytest.mark.processes

_NAMESPACES = '/run/netns'
# Tries all addresses and ports; prints which accepted the connection.
ATTACK = '''
import json, socket, sys
reached = []
for host, port in json.loads(sys.argv[1]):
  try:
    socket.create_connection((host, port), timeout=2).close()
    reached.append([host, port])
  except OSError:
    pass
print(json.dumps(reached))
'''


def listening(pid):
  """Ports on which a process's network namespace listens."""
  ports = set()
  for name in ('tcp', 'tcp6'):
    with open(f'/proc/{pid}/net/{name}', encoding='ascii') as f:
      for line in list(f)[1:]:
        fields = line.split()
        if fields[3] == '0A':
          ports.add(int(fields[1].rpartition(':')[2], 16))
  return ports


def attack(targets, *prefix):
  result = subprocess.run(
      [*prefix, sys.executable, '-c', ATTACK, json.dumps(targets)],
      capture_output=True, text=True, timeout=120, check=True)
  return [tuple(target) for target in json.loads(result.stdout)]


def own_addresses():
  found = subprocess.run(['hostname', '-I'], capture_output=True, text=True,
                         check=False).stdout.split()
  return ['127.0.0.1', '::1', *found]


def _is_mounted():
  """`os.path.ismount` does not see a directory that is mounted on itself."""
  with open('/proc/self/mounts', encoding='utf-8') as f:
    return any(line.split()[1] == _NAMESPACES for line in f)


def _unmount_namespaces(mounted_before):
  """Unmounts the directory of namespaces, if this test has mounted it.

  The first `ip netns add` of a machine mounts that directory on itself.
  """
  if not mounted_before and _is_mounted() and not os.listdir(_NAMESPACES):
    subprocess.run(['umount', _NAMESPACES], check=True, timeout=20)
    os.rmdir(_NAMESPACES)


@pytest.fixture
def other_network():
  """A network that is linked to ours: its command prefix, our address."""
  if os.geteuid() != 0 or not shutil.which('ip'):
    pytest.skip('making a network needs root and iproute2')
  name = f'lpg{os.getpid()}'
  ours, theirs = f'lpga{os.getpid()}'[:15], f'lpgb{os.getpid()}'[:15]
  ip = lambda *words: subprocess.run(['ip', *words], check=True, timeout=20)
  mounted = _is_mounted()
  try:
    ip('netns', 'add', name)
    ip('link', 'add', ours, 'type', 'veth', 'peer', 'name', theirs, 'netns',
       name)
    ip('addr', 'add', '198.18.77.1/24', 'dev', ours)
    ip('link', 'set', ours, 'up')
    ip('-n', name, 'addr', 'add', '198.18.77.2/24', 'dev', theirs)
    ip('-n', name, 'link', 'set', theirs, 'up')
  except subprocess.CalledProcessError as error:
    subprocess.run(['ip', 'netns', 'del', name], check=False)
    _unmount_namespaces(mounted)
    pytest.skip(f'no networks can be made here: {error}')
  yield ['ip', 'netns', 'exec', name], '198.18.77.1'
  subprocess.run(['ip', 'netns', 'del', name], check=True, timeout=20)
  _unmount_namespaces(mounted)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A launch with default flags; no process outlives its launcher."""
  run = chaos.Run(tmp_path_factory.mktemp('runs') / 'run',
                  '--meta_steps=1000000')
  try:
    run.wait_for_step()
    yield run
  finally:
    pids = run.kill_all()
    waiting.until_gone(pids)
  # A supervisor and a process for each of queue, bandit, learner, two workers
  # and facade.
  assert len(pids) == 12


def node_ports(run):
  nodes = run.nodes()
  with open('/proc/self/ns/net', encoding='ascii') as _:
    here = os.readlink('/proc/self/ns/net')
  ports = set()
  for label, pid in nodes.items():
    if os.readlink(f'/proc/{pid}/ns/net') == here:
      pytest.skip('this system allows no network namespaces: '
                  f'{label} is in ours')
    ports |= listening(pid)
  return sorted(ports)


def facade_address(run):
  launch = json.loads((run.run_dir / 'launch.json').read_text())
  host, port = launch['addresses']['bandit_server'].split(':')
  return host, int(port)


def test_the_attack_reaches_an_unprotected_server(other_network):
  """The attack works, so the tests below can notice an open port."""
  prefix, address = other_network
  port = portpicker.pick_unused_port()
  server = courier.Server(port=port)
  server.Bind('f', lambda: 1)
  server.Start()
  try:
    assert attack([[address, port]], *prefix) == [(address, port)]
  finally:
    server.Stop()
    server.Join()


@pytest.mark.long
def test_another_network_reaches_no_port(run, other_network):
  prefix, address = other_network
  ports = node_ports(run)
  assert len(ports) >= 3  # Of queue, bandit and learner.
  ports.append(facade_address(run)[1])
  targets = [[host, port] for host in (address, '127.0.0.1', '198.18.77.2')
             for port in ports]
  assert not attack(targets, *prefix)


@pytest.mark.long
def test_this_machine_reaches_only_the_facade(run):
  ports = node_ports(run)
  facade = facade_address(run)
  targets = [[host, port] for host in own_addresses()
             for port in (*ports, facade[1])]
  assert attack(targets) == [facade]


@pytest.mark.long
def test_the_facade_answers_from_this_machine(run):
  address = ':'.join(map(str, facade_address(run)))
  ask = lambda path: json.loads(subprocess.run(
      [sys.executable, '-c', 'import sys, urllib.request; print('
       'urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())',
       f'http://{address}{path}'], capture_output=True, text=True, check=True,
      timeout=30).stdout)
  assert ask('/v1/health')['status'] == 'ok'
  assert set(ask('/v1/statistics')['environments']) == {'chain_short'}


@pytest.mark.long
def test_the_bandit_answers_while_the_run_goes_on(run):
  for _ in range(3):
    run.wait_for_step()
  result = subprocess.run(
      [sys.executable, '-m', 'launch.query_bandit', '--json',
       f'--run_dir={run.run_dir}'], capture_output=True, text=True,
      timeout=waiting.PATIENCE_S,
      env={**os.environ, **process_environment.with_packages({})})
  assert result.returncode == 0, result.stderr
  answer = json.loads(result.stdout)
  assert answer['meta_step'] >= 1
  arms = answer['environments']['chain_short']
  assert len(arms) == 9
  assert abs(sum(arm['probability'] for arm in arms) - 1.) < 1e-9


def test_a_refused_isolation_changes_nothing(monkeypatch):
  def refuse():
    raise OSError(1, 'Operation not permitted')

  monkeypatch.setattr(isolation, '_leave', refuse)
  before = os.readlink('/proc/self/ns/net')
  assert isolation.isolate() == 'Operation not permitted'
  assert os.readlink('/proc/self/ns/net') == before


def test_a_user_without_rights_gets_a_separate_network():
  """The number of the user stays the same, and so do owners of files."""
  python = '/usr/bin/python3'
  if os.geteuid() != 0 or not (shutil.which('setpriv')
                               and os.path.exists(python)):
    pytest.skip('becoming another user needs root, setpriv and a system Python')
  with tempfile.TemporaryDirectory() as directory:
    # pytest's own directories are not for other users.
    os.chmod(directory, 0o755)
    shutil.copy(isolation.__file__, directory)
    code = (f'import sys, os, socket; sys.path.insert(0, {directory!r});'
            'import isolation; print(isolation.isolate(), os.getuid());'
            'socket.create_server(("127.0.0.1", 0));'
            'print([name for _, name in socket.if_nameindex()])')
    result = subprocess.run(
        ['setpriv', '--reuid=12345', '--regid=12345', '--clear-groups', python,
         '-c', code], capture_output=True, text=True, timeout=30, check=False)
  if 'Operation not permitted' in result.stdout:
    pytest.skip('this system allows users no namespaces')
  assert result.stdout.startswith('None 12345'), result
  assert result.stdout.splitlines()[1] == "['lo']"


@pytest.mark.parametrize('content, mode, part', [
    ('a' * 15, 0o600, '16 or more'), ('a b' * 9, 0o600, 'without blanks'),
    ('a' * 32, 0o644, 'chmod 600'), ('ä' * 32, 0o600, 'not readable')])
def test_weak_or_readable_tokens_are_refused(tmp_path, content, mode, part):
  file = tmp_path / 'token'
  file.write_text(content)
  file.chmod(mode)
  with pytest.raises(facade_process.command.UsageError, match=part):
    facade_process.read_token(str(file))
  file.write_text('k' * 32 + '\n')
  file.chmod(0o600)
  assert facade_process.read_token(str(file)) == 'k' * 32


def test_a_port_in_use_is_refused():
  with socket.create_server(('127.0.0.1', 0)) as busy, pytest.raises(
      facade_process.command.UsageError, match='Address already in use'):
    facade_process.listen('127.0.0.1', busy.getsockname()[1])
