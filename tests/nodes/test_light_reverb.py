"""Reverb's client and node need no TensorFlow; its server is in a process."""

import json
import subprocess
import sys

import pytest

from tests import waiting

pytestmark = pytest.mark.processes

# One process after another would import TensorFlow again, which takes long.
SERVER = """
import json, sys
from lpg_distributed import presets
from lpg_distributed import programs
found = {}
program, _ = programs.make_program(
    presets.demo(), programs.Launch('/nowhere', own_processes=True))
found['groups'] = list(program.groups)
found['by launcher'] = sorted({'tensorflow'} & set(sys.modules))
from lpg_distributed.nodes import light_reverb
node = light_reverb.import_node()
found['by node'] = sorted({'tensorflow', 'reverb'} & set(sys.modules))
from launchpad.nodes.reverb import node as module
import launchpad as lp
found['nodes are one'] = node is module.ReverbNode is lp.ReverbNode
from lpg_distributed.nodes import gradient_queue
reverb = gradient_queue.import_reverb()
found['servers are one'] = module.reverb.Server is reverb.Server
found['by server'] = sorted({'keras'} & set(sys.modules))
server = reverb.Server([gradient_queue.make_table(2, 50)])
print(json.dumps({**found, 'port': server.port}), flush=True)
sys.stdin.readline()
from tensorflow.keras import layers
print(layers.__name__, flush=True)
"""

CLIENT = """
import sys
import numpy as np
from lpg_distributed import types
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import light_reverb

address = f'localhost:{sys.argv[1]}'
writer = gradient_queue.ReverbGradientWriter(address)
reader = gradient_queue.ReverbGradientReader(address)
for i in range(3):
  sent = types.MetaGradient(
      7, i, np.full(50, i + 0.5, np.float32), 16, {'arm': [i], 'x': [None]})
  assert writer.put(sent, 30.)
  received = reader.get(30.)
  np.testing.assert_array_equal(received.gradient_sum, sent.gradient_sum)
  assert received._replace(gradient_sum=None) == sent._replace(
      gradient_sum=None)
assert reader.books() == (3, 0, 0), reader.books()
assert light_reverb.is_light()
assert not [m for m in ('tensorflow', 'keras') if m in sys.modules]
from lpg_distributed.core import lifetime  # RLax can still be imported.
try:
  gradient_queue.import_reverb()
except RuntimeError as error:
  print(error)
"""


@pytest.fixture(name='server', scope='module')
def _server():
  """The server's process, and what it found while it imported."""
  with subprocess.Popen([sys.executable, '-c', SERVER], text=True,
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE
                        ) as process:
    try:
      yield process, json.loads(process.stdout.readline())
    finally:
      process.kill()


def test_the_launcher_needs_no_tensorflow(server):
  _, found = server
  assert 'gradient_queue' in found['groups'] and not found['by launcher']


def test_the_node_imports_reverb_when_it_is_used(server):
  _, found = server
  assert not found['by node']
  assert found['nodes are one'] and found['servers are one']


def test_messages_arrive_without_tensorflow(server):
  _, found = server
  done = subprocess.run([sys.executable, '-c', CLIENT, str(found['port'])],
                        capture_output=True, text=True, check=False,
                        timeout=waiting.PATIENCE_S)
  assert done.returncode == 0, done.stderr
  assert 'the client of Reverb alone' in done.stdout


def test_reverb_needs_no_keras(server):
  """A module of a user's environment may still import it."""
  process, found = server
  assert not found['by server']
  process.stdin.write('\n')
  process.stdin.flush()
  assert process.stdout.readline().endswith('layers\n')
