"""The programs of `examples/` do what they say, at the smallest sizes."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from lpg_distributed.core.update_rules import registry
from lpg_distributed.store import eta_file
from tests.core import rule_testing

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_EXAMPLES = sorted((_ROOT / 'examples').glob('[!_]*.py'))
_SMALL = [f'--set={field}' for field in (
    'meta.num_lifetimes=2', 'meta.num_envs=4', 'meta.num_updates=2',
    'meta.trajectory_steps=5', 'run.num_workers=1')]


def test_examples_are_found():
  assert [path.stem for path in _EXAMPLES] == [
      'bandit_client', 'own_environment', 'own_rule']


@pytest.mark.parametrize('path', _EXAMPLES, ids=lambda path: path.stem)
def test_examples_say_how_they_are_run(path):
  """With a command that docs/examples.md has, too, and that exists."""
  text = path.read_text(encoding='utf-8')
  page = (_ROOT / 'docs' / 'examples.md').read_text(encoding='utf-8')
  assert f'../examples/{path.name}' in page
  commands = re.findall(r'^    (python -m .*)$', text.split('"""')[1],
                        re.MULTILINE)
  assert commands
  for command in commands:
    words = shlex.split(command)
    assert words[2] == f'examples.{path.stem}'
    assert command in page
    for flag in words[3:]:
      assert f"'{flag.partition('=')[0]}'" in text


def test_own_environment(tmp_path, monkeypatch, capsys):
  from examples import own_environment
  monkeypatch.chdir(tmp_path)  # No other file is needed.
  own_environment.main(['--meta_steps=2', '--env_steps=1500',
                        '--run_dir=run', '--set=rule.lstm_size=4', *_SMALL])
  assert eta_file.load('run/eta.npz').info['meta_step'] == 2
  printed = capsys.readouterr().out
  assert len(re.findall(r'-?\d\.\d+', printed.partition('pi(')[0])) == 2
  assert len(re.findall(r'0\.\d+', printed.partition('pi(')[2])) == 9


def test_own_rule(tmp_path, monkeypatch, capsys):
  from examples import own_rule
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(registry, 'RULES', dict(registry.RULES))
  own_rule.main(['--meta_steps=2', '--env_steps=1500', '--run_dir=run',
                 *_SMALL])
  printed = capsys.readouterr().out
  before, after = (json.loads(line.partition(' ')[2].replace("'", '"'))
                   for line in printed.splitlines()
                   if line.startswith(('untrained', 'trained')))
  assert before['size'] == 1. and 0.4 < before['lambda'] < 0.6
  assert before['lambda'] != after['lambda'] and after['size'] != 1.
  assert own_rule.describe(eta_file.load('run/eta.npz').eta) == after
  assert 'final return on Catch [' in printed


def test_own_rule_is_gae():
  """With lambda = 0 it is the error of one step, by hand."""
  from examples import own_rule
  experience, hyper = rule_testing.two_steps()
  targets, _ = own_rule.make().compute_targets(
      {'lambda': np.float32(-100.), 'log_size': np.log(np.float32(2.))},
      experience, hyper)
  # Twice 1 + 0.5 * 5 - 3 and, at the end of the episode, 2 - 5.
  np.testing.assert_allclose(targets.pi_hat, [[1.], [-6.]], rtol=1e-5)


def test_bandit_client_over_http(tmp_path, capsys):
  pytest.importorskip('httptools')
  from examples import bandit_client
  from tests.nodes import facade_testing
  token = 'k' * 32
  (tmp_path / 'token').write_text(token)
  served = facade_testing.Served(writable=True, token=token)
  try:
    (tmp_path / 'launch.json').write_text(json.dumps({
        'addresses': {'bandit_server': f'127.0.0.1:{served.port}'},
        'token_file': str(tmp_path / 'token')}))
    bandit_client.main([f'--run_dir={tmp_path}'])
    printed = capsys.readouterr().out
    assert printed.startswith('meta-step 1\nchain_short: learning_rate ')
    client = bandit_client.HttpBandit.of_run(str(tmp_path))
    arm = client.sample('chain_short')
    assert client.report('a', arm, 0.5)
    assert not client.report('a', arm, 0.5)  # It counts once.
    with pytest.raises(RuntimeError, match='sample: no such environment'):
      client.sample('pong')
  finally:
    served.close()


@pytest.mark.processes
def test_bandit_client_over_courier(tmp_path):
  pytest.importorskip('launchpad')
  done = subprocess.run(
      [sys.executable, '-m', 'examples.bandit_client', '--courier'],
      cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
      env={'PYTHONPATH': str(_ROOT), 'PATH': '', 'HOME': str(tmp_path)})
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'meta-step 1\nchain_short: learning_rate ' in done.stdout
