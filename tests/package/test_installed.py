"""What a user gets: the wheel, installed apart from the repository.

Everything runs in a directory where the user has packages of his own called
`envs` and `launch`, as many repositories do.
"""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

import lpg_distributed
from lpg_distributed.store import published
from tests import test_imports

_ROOT = pathlib.Path(test_imports.ROOT)
_CURRENT_PYTHON = _ROOT / '.venv-current' / 'bin' / 'python'
# An installed package whose import is an error: no command may look for it.
_OWN_PACKAGE = 'HERE = True\n'
_SMALL = '''
import lpg_distributed as lpg
import envs, launch
assert envs.HERE and launch.HERE

config = lpg.load_config(
    'demo', 'environments=chain_short', 'meta.num_lifetimes=2',
    'meta.num_envs=4', 'meta.num_updates=2', 'rule.lstm_size=8',
    'run.meta_steps=2', 'evaluator.enabled=false')
rule = lpg.meta_train(config, run_dir='my_run')
assert rule.info['meta_step'] == 2

agents = lpg.train_agents(
    rule, 'chain_short', learning_rate=40., kl_cost=0.5, num_agents=2,
    num_envs=4,
    updates=3)
print('returns', agents.final_return.shape)
print('published', lpg.load_rule('all_kinds_pi').eta.shape)
'''


def _run(*command, cwd, code=0, timeout=500):
  """Runs a command as a user does, without variables of these tests."""
  env = {name: value for name, value in os.environ.items()
         if name not in ('PYTHONPATH', 'VIRTUAL_ENV')}
  done = subprocess.run(
      command, cwd=cwd, env=env, text=True, capture_output=True,
      timeout=timeout, check=False)
  assert done.returncode == code, done.stderr[-3000:]
  return done


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Built from a copy, so that the repository stays as it is."""
  source = tmp_path_factory.mktemp('source')
  subprocess.run(['tar', 'cf', source / 'source.tar', '-C', _ROOT,
                  *test_imports.FILES, 'lpg_distributed/envs',
                  'lpg_distributed/launch'], check=True)
  subprocess.run(['tar', 'xf', source / 'source.tar', '-C', source],
                 check=True)
  wheels = tmp_path_factory.mktemp('wheels')
  _run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
       '--wheel-dir', wheels, source, cwd=wheels)
  (path,) = wheels.iterdir()
  return path


@pytest.fixture(scope='module')
def user(wheel, tmp_path_factory):
  """A new environment of a current Python, and a directory to work in."""
  if not _CURRENT_PYTHON.exists():
    if os.environ.get('CI'):
      pytest.fail('.venv-current is missing; make venv-current')
    pytest.skip('needs .venv-current; make venv-current')
  root = tmp_path_factory.mktemp('user')
  (root / 'requirements.txt').write_text(f'{wheel}\n')
  _run('sh', _ROOT / 'launch' / 'venv.sh', root / 'venv',
       root / 'requirements.txt', '3.13', '3.12', cwd=root)
  for name in ('envs', 'launch'):
    (root / name).mkdir()
    (root / name / '__init__.py').write_text(_OWN_PACKAGE)
  return root


def _lpg(user, *arguments, **kwargs):
  return _run(user / 'venv' / 'bin' / 'lpg', *arguments, cwd=user, **kwargs)


@pytest.mark.package
def test_the_wheel_holds_one_package_with_all_its_files(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  tops = {name.split('/')[0] for name in names}
  assert {top for top in tops if not top.endswith('.dist-info')} == {
      'lpg_distributed'}
  expected = {
      name if name.startswith('lpg_distributed/') else f'lpg_distributed/{name}'
      for name in test_imports.FILES
      if name.split('/')[0] in ('envs', 'launch', 'lpg_distributed')
      and name not in ('launch/venv.sh', 'launch/lpg.sh')
      and not (_ROOT / name).is_symlink()}
  assert {n for n in names if n.startswith('lpg_distributed/')} == expected
  for name in published.names():
    assert f'lpg_distributed/weights/{name}.npz' in names
  assert 'lpg_distributed/py.typed' in names


@pytest.mark.package
@pytest.mark.long
def test_the_command_outside_the_repository(user):
  assert _lpg(user, '--version').stdout == (
      f'lpg-distributed {lpg_distributed.__version__}\n')
  assert 'meta-train' in _lpg(user, '--help').stdout
  out = _lpg(user, 'meta-test', '--env=gymnax/Catch-bsuite',
             '--eta=all_kinds_pi', '--env_steps=2000',
             '--num_envs=8').stdout
  assert 'gymnax/Catch-bsuite by lpg (all_kinds_pi): return ' in out
  out = _lpg(user, 'bandit', '--help').stdout
  assert 'lpg bandit' in out


@pytest.mark.package
@pytest.mark.long
def test_errors_are_one_line(user):
  for arguments, part in (
      (('meta-train',), 'needs Launchpad'),
      (('meta-train', '--launch_type=embedded', '--preset=labtop'),
       'demo, laptop, paper'),
      (('meta-test', '--env=gymnax/Catch-bsuite', '--eta=nobody'),
       'all_kinds_pi')):
    err = _lpg(user, *arguments, code=2).stderr
    assert err.startswith('error: ') and err.count('\n') == 1 and part in err
  assert not (user / 'runs' / 'demo_seed0').exists()


@pytest.mark.package
@pytest.mark.long
def test_twenty_lines_of_python(user):
  """They meta-train in one process, beside packages of the same names."""
  lines = [line for line in _SMALL.splitlines() if line]
  assert len(lines) <= 20
  (user / 'mine.py').write_text(_SMALL)
  out = _run(user / 'venv' / 'bin' / 'python', 'mine.py', cwd=user).stdout
  assert out == 'returns (2,)\npublished (6528,)\n'


@pytest.mark.package
@pytest.mark.long
def test_meta_training_in_one_process(user):
  _lpg(user, 'meta-train', '--launch_type=embedded', '--meta_steps=2',
       '--set=environments=chain_short', '--set=meta.num_lifetimes=2',
       '--set=meta.num_envs=4', '--set=rule.lstm_size=8',
       '--set=evaluator.enabled=false', '--noevaluate', '--run_dir=run')
  assert (user / 'run' / 'eta.npz').exists()
  assert (user / 'run' / 'figures' / 'training.png').exists()
