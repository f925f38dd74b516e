"""Reverb's client and node need no TensorFlow; its server is in a process."""

import subprocess
import sys

import pytest

from tests import waiting

pytestmark = pytest.mark.processes

SERVER = """
import sys
from lpg_distributed.nodes import gradient_queue
reverb = gradient_queue.import_reverb()
server = reverb.Server([gradient_queue.make_table(2, 50)])
print(server.port, flush=True)
sys.stdin.read()
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

NODE = """
import sys
from lpg_distributed.nodes import light_reverb
node = light_reverb.import_node()
assert not {'tensorflow', 'reverb'} & set(sys.modules)
from launchpad.nodes.reverb import node as module
import launchpad as lp
assert node is module.ReverbNode is lp.ReverbNode
from lpg_distributed.nodes import gradient_queue
assert module.reverb.Server is gradient_queue.import_reverb().Server
"""

LAUNCHER = """
import sys
from lpg_distributed import presets
from lpg_distributed import programs
program, _ = programs.make_program(
    presets.demo(), programs.Launch('/nowhere', own_processes=True))
assert 'gradient_queue' in program.groups
print('tensorflow' in sys.modules)
"""


def run(code, *arguments):
  done = subprocess.run([sys.executable, '-c', code, *arguments],
                        capture_output=True, text=True, check=False,
                        timeout=waiting.PATIENCE_S)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_messages_arrive_without_tensorflow():
  with subprocess.Popen([sys.executable, '-c', SERVER], text=True,
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE
                        ) as server:
    try:
      port = server.stdout.readline().strip()
      assert 'the client of Reverb alone' in run(CLIENT, port)
    finally:
      server.kill()


def test_the_node_imports_reverb_when_it_is_used():
  run(NODE)


def test_the_launcher_needs_no_tensorflow():
  assert run(LAUNCHER) == 'False\n'
