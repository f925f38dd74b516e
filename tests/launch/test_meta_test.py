"""`launch.meta_test` and related commands, from the command line."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from lpg_distributed.envs import registry
from lpg_distributed.launch import agent_flags
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import settings

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DOCUMENT = _ROOT / 'docs' / 'meta_testing.md'


def command(module, *flags, cwd, **kwargs):
  return subprocess.Popen(
      [sys.executable, '-m', f'launch.{module}', *flags], cwd=cwd, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': str(_ROOT),
           'JAX_DISABLE_MOST_OPTIMIZATIONS': '0'}, **kwargs)


def run(module, *flags, cwd, code=0):
  process = command(module, *flags, cwd=cwd)
  out, err = process.communicate(timeout=400)
  assert process.returncode == code, err[-3000:]
  return out, err


def test_the_help_of_set_names_all_settings_of_agents():
  fields = dataclasses.fields(settings.AgentSettings)
  assert [field.name for field in fields] == list(agent_flags._SETTINGS)


@pytest.fixture(scope='module')
def corridor(tmp_path_factory):
  """The environment of the document, as a user has it."""
  blocks = re.findall(r'^```python\n(# (\w+\.py)\n.*?)^```',
                      _DOCUMENT.read_text(encoding='utf-8'),
                      re.DOTALL | re.MULTILINE)
  (code, name), = blocks
  lines = [line for line in code.splitlines()[1:] if line.strip()]
  assert name == 'corridor.py' and len(lines) < 20
  root = tmp_path_factory.mktemp('user')
  (root / name).write_text(code, encoding='utf-8')
  return root


def test_a_users_gymnasium_environment_is_loaded(tmp_path, monkeypatch):
  """The document's function, from a file and from a package."""
  pytest.importorskip('gymnasium')
  (code,) = re.findall(r'^```python\n(import gymnasium\n.*?)^```',
                       _DOCUMENT.read_text(encoding='utf-8'),
                       re.DOTALL | re.MULTILINE)
  (tmp_path / 'my_package').mkdir()
  (tmp_path / 'my_package' / '__init__.py').write_text(
      "import gymnasium\ngymnasium.register('MyEnv-v0', entry_point="
      "'gymnasium.envs.classic_control:CartPoleEnv')\n")
  for place in (tmp_path, tmp_path / 'my_package'):
    (place / 'make.py').write_text(code, encoding='utf-8')
  monkeypatch.syspath_prepend(str(tmp_path))
  for name in ('module/make:make_env', 'module/my_package.make:make_env',
               'gymnasium/my_package:MyEnv-v0'):
    batch = registry.load(name).make_host(2)
    assert batch.reset(0).shape == (2, 4)
    batch.close()
  # Other tests list what gymnasium registers itself.
  sys.modules['gymnasium'].registry.pop('MyEnv-v0')


def test_the_documents_wrappers_make_actions_discrete(tmp_path, monkeypatch):
  pytest.importorskip('gymnasium')
  (code,) = re.findall(r'^```python\n(from gymnasium import .*?)^```',
                       _DOCUMENT.read_text(encoding='utf-8'),
                       re.DOTALL | re.MULTILINE)
  (tmp_path / 'wrapped.py').write_text(code, encoding='utf-8')
  monkeypatch.syspath_prepend(str(tmp_path))
  batch = registry.load('module/wrapped:make_pendulum').make_host(5)
  assert batch.action_spec().num_values == 5
  batch.reset(0)
  reward = batch.step(np.arange(5)).reward
  assert np.all(reward <= 0) and np.all(reward >= -0.33)  # Raw: from -16.3.
  batch.close()


def test_help_names_all_settings(forks):
  found = forks.run_module('launch.meta_test', '--help').stdout
  fields = dataclasses.fields(settings.AgentSettings)
  assert 'one of ' + ', '.join(f.name for f in fields) + ';' in ' '.join(
      found.split())


def test_the_document_has_all_settings_with_defaults():
  rows = re.findall(r'^\| `(\w+)` \| ([\w.]+) \|',
                    _DOCUMENT.read_text(encoding='utf-8'), re.MULTILINE)
  defaults = vars(jobs.default_settings('gymnasium'))
  assert dict(rows) == {name: str(value).lower()
                        for name, value in defaults.items()}


def documented(name):
  """Flags of the document's command with the module of `corridor`."""
  text = _DOCUMENT.read_text(encoding='utf-8')
  (flags,) = re.findall(
      rf'^lpg {name} (--env=module/corridor:.*)$', text, re.MULTILINE)
  return flags.split()


def test_an_agent_learns_in_a_users_own_environment(corridor):
  """With the command and the environment of the document."""
  out, _ = run('meta_test', *documented('meta-test'), cwd=corridor)
  match = re.search(
      r'module/corridor:Corridor by lpg \(.*\): return ([-\d.]+) ', out)
  # A random agent has about -0.5; the shortest path gives 0.92.
  assert float(match.group(1)) > 0.8
  (path,) = (corridor / 'runs' / 'meta_test').iterdir()
  assert results.read(str(path)).job.environment == 'module/corridor:Corridor'
  out, _ = run('plot_results', '--results=runs', '--output=curve.png',
               cwd=corridor)
  assert (corridor / 'curve.png').stat().st_size > 1000
  assert 'figure: curve.png' in out


def test_a_signal_stops_a_job_and_the_same_command_resumes_it(tmp_path):
  flags = ['--env=module/tests.meta_testing.session_testing:Corridor',
           '--rule=random', '--lstm_size=4', '--env_steps=9000',
           '--run_dir=job']
  process = command('meta_test', *flags, cwd=tmp_path)
  path = tmp_path / 'job' / results.FILE
  while not (path.exists() and path.read_text().count('\n') > 2):
    assert process.poll() is None, process.stderr.read()
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGTERM
  assert err.strip().endswith('stopped; the same command resumes')
  before = results.read(str(tmp_path / 'job')).rows
  out, _ = run('meta_test', *flags, cwd=tmp_path)
  rows = results.read(str(tmp_path / 'job')).rows
  assert rows[:len(before)] == before and rows[-1]['env_steps'] >= 9000
  assert 'result: job' in out


_REFUSED = """
import runpy, sys
from lpg_distributed.launch import process_environment
process_environment.ensure = lambda variables, here=True: None
runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)
"""


@pytest.mark.parametrize('module, flags, message', [
    ('meta_test', (), '--env is missing; allowed: KIND/NAME'),
    ('meta_test', ('--env=gymnax/CartPole', '--rule=a2c'),
     "gymnax has no environment 'CartPole'; did you mean CartPole-v1"),
    ('meta_test', ('--env=gymnasium/Pendulum-v1', '--rule=a2c'),
     'has actions Box'),
    ('meta_test', ('--env=gymnax/UmbrellaChain-bsuite', '--rule=a2c',
                   '--render=x.gif'), 'is not an image'),
    ('mini', (), '--eta is missing'),
    ('select', ('--eta=none.npz',), '/none.npz'),
    ('select', ('--rule=a2c', '--kl_costs=0', '--set=kl_cost=1'),
     'kl_cost is what is selected; give --kl_costs'),
    ('plot_results', ('--results=nowhere',), 'nowhere has no results'),
])
def test_bad_flags_are_refused_in_one_line(
    forks, module, flags, message, tmp_path):
  """Without the variables for which a command begins anew."""
  code, _, err = forks.run_code(_REFUSED, f'launch.{module}', *flags,
                                cwd=tmp_path)
  assert code == 2
  assert err.startswith('error: ') and err.count('\n') == 1, err
  assert message in err
