"""The launcher's own network and its rights, tried in another process."""

import os
import subprocess
import sys

import pytest

NOBODY = 65534
ISOLATE = f'''
import codecs, ctypes, os, socket, sys
from lpg_distributed.launch.local import isolation

def rights():
  with open('/proc/self/status', encoding='utf-8') as f:
    return [line.split()[1] for line in f if line.startswith('Cap')]

for codec in ('ascii', 'idna'):  # Later, root's files cannot be read.
  codecs.lookup(codec)
if os.geteuid() == 0 and sys.argv[1] == 'nobody':
  os.setgroups([])
  os.setgid({NOBODY})
  os.setuid({NOBODY})
  ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # Its /proc can be read again.
before = rights()
obstacle = isolation.isolate()
if obstacle is not None:
  sys.exit(f'obstacle: {{obstacle}}')
with socket.create_server(('127.0.0.1', 0)) as server:
  socket.create_connection(server.getsockname()).close()
print(*[name for _, name in socket.if_nameindex()], os.getuid(),
      *set(rights()), rights() == before)
'''


def isolate(user):
  done = subprocess.run([sys.executable, '-c', ISOLATE, user], check=False,
                        capture_output=True, text=True)
  if done.stderr.startswith('obstacle'):
    pytest.skip(f'no namespaces here: {done.stderr.strip()}')
  assert done.returncode == 0, done.stderr
  return done.stdout.split()


def test_the_launcher_keeps_no_rights_of_root_in_its_namespace():
  """Otherwise it would have all of them, and its nodes none."""
  uid = NOBODY if os.geteuid() == 0 else os.getuid()
  *found, same = isolate('nobody')
  assert found == ['lo', str(uid), '0' * 16] and same == 'False'


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root')
def test_root_keeps_its_rights():
  assert isolate('root')[-1] == 'True'
