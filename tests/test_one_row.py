"""A new training environment is one settings row and one agent row."""

import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PROGRAM = '''
from lpg_distributed import config as config_lib
from lpg_distributed.analysis import training_environments
from lpg_distributed.analysis import training_settings
from lpg_distributed.core import lifetime
from lpg_distributed.envs import suite
settings = training_settings.ComparisonSettings(num_lifetimes=3, chunk=2)
for name in suite.ENVIRONMENTS:
  print(name, *(key.tolist() for key in
                training_environments._chunk_keys(name, settings)))
if 'chain_tiny' in suite.ENVIRONMENTS:
  config = config_lib.Config(environments=('chain_tiny',))
  shard = lifetime.make_shard(config, 'chain_tiny', 2)
  assert shard.empty().age.shape == (2,)
'''


def _keys(root):
  """The keys of a comparison's lifetimes, by environment."""
  done = subprocess.run(
      [sys.executable, '-c', _PROGRAM], cwd=root, capture_output=True,
      text=True, check=False, env={**os.environ, 'PYTHONPATH': str(root)})
  assert done.returncode == 0, done.stderr
  return dict(line.split(' ', 1) for line in done.stdout.splitlines())


def _insert(path, before, row):
  text = path.read_text()
  assert text.count(before) == 1
  path.write_text(text.replace(before, row + before))


def test_inserted_rows_train_and_move_no_seed(tmp_path):
  shutil.copytree(os.path.join(ROOT, 'lpg_distributed'),
                  tmp_path / 'lpg_distributed',
                  ignore=shutil.ignore_patterns('__pycache__', 'weights'))
  package = tmp_path / 'lpg_distributed'
  _insert(package / 'envs' / 'suite.py', "    'chain_long': _",
          "    'chain_tiny': _Chain(2, 3),\n")
  _insert(package / 'config.py', "    'chain_long': _",
          "    'chain_tiny': _CHAIN_TABLE,\n")
  old, new = _keys(ROOT), _keys(tmp_path)
  own = new.pop('chain_tiny')
  assert new == old
  assert own not in old.values()
