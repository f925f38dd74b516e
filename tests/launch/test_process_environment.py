"""Environment variables of commands and nodes."""

import json
import os
import resource
import subprocess
import sys

import pytest

from lpg_distributed import global_settings
from lpg_distributed.launch import process_environment

OURS = process_environment.WORKER['XLA_FLAGS']


def test_services_use_the_cpu_if_the_user_chooses_an_accelerator(monkeypatch):
  """A TPU belongs to one process, and images choose it for all."""
  monkeypatch.setenv('JAX_PLATFORMS', 'tpu,cpu')
  chosen = process_environment.with_packages(process_environment.SERVICE)
  assert chosen['JAX_PLATFORMS'] == 'cpu'
  # Workers inherit the variable.
  assert 'JAX_PLATFORMS' not in process_environment.with_packages(
      process_environment.WORKER)


def test_other_variables_of_the_user_are_kept(monkeypatch):
  monkeypatch.setenv('NPROC', '7')
  for variables in (process_environment.SERVICE, process_environment.WORKER):
    assert process_environment.with_packages(variables)['NPROC'] == '7'


@pytest.mark.parametrize('users, merged', [
    ('', OURS), (OURS, OURS),
    ('--xla_a=1 --xla_b', f'--xla_a=1 --xla_b {OURS}'),
    ('--xla_cpu_multi_thread_eigen=true', '--xla_cpu_multi_thread_eigen=true')])
def test_a_users_flags_of_xla_are_merged_with_ours(monkeypatch, users, merged):
  """Without our flags, the order of sums would be another."""
  monkeypatch.setenv('XLA_FLAGS', users)
  for _ in range(2):  # In the second, the user has the merged ones.
    found = process_environment.with_packages(process_environment.WORKER)
    assert found['XLA_FLAGS'] == merged
    monkeypatch.setenv('XLA_FLAGS', merged)


def test_flags_of_xla_in_a_file_are_merged(monkeypatch, tmp_path):
  (tmp_path / 'flags').write_text('--xla_a=1\n--xla_b=2\n')
  monkeypatch.setenv('XLA_FLAGS', str(tmp_path / 'flags'))
  found = process_environment.with_packages(process_environment.WORKER)
  assert found['XLA_FLAGS'] == f'--xla_a=1 --xla_b=2 {OURS}'
  os.mkfifo(tmp_path / 'pipe')  # It is not waited for.
  for name in ('none', 'pipe'):
    monkeypatch.setenv('XLA_FLAGS', str(tmp_path / name))
    with pytest.raises(global_settings.SettingsError, match='cannot be read'):
      process_environment.with_packages(process_environment.WORKER)


def test_nodes_use_no_proxy_and_other_clients_do(monkeypatch):
  """Otherwise gRPC would send even loopback traffic to the proxy."""
  monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
  monkeypatch.setenv('grpc_proxy', 'http://127.0.0.1:9')
  for variables in (process_environment.SERVICE, process_environment.WORKER):
    assert process_environment.environment(variables)['grpc_proxy'] == ''
  assert process_environment.environment(process_environment.CLIENT)[
      'grpc_proxy'] == 'http://127.0.0.1:9'


@pytest.mark.parametrize('variables, cache', [
    ({'HOME': '{tmp}/home'}, '{tmp}/home/.cache/lpg_distributed/'),
    ({'HOME': '{tmp}/home', 'XDG_CACHE_HOME': '{tmp}/x'},
     '{tmp}/x/lpg_distributed/'),
    ({'HOME': '{tmp}/home', 'XDG_CACHE_HOME': 'relative'},
     '{tmp}/home/.cache/lpg_distributed/'),
    ({'HOME': ''}, None), ({'HOME': '~'}, None),
    ({'HOME': '{tmp}/file'}, None)])
def test_compiled_programs_are_cached_if_there_is_a_home(
    monkeypatch, tmp_path, variables, cache):
  """No directory called `~` is made."""
  (tmp_path / 'file').write_text('')
  for name in ('XDG_CACHE_HOME', 'JAX_COMPILATION_CACHE_DIR'):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value.format(tmp=tmp_path))
  found = process_environment.with_packages({}).get(
      'JAX_COMPILATION_CACHE_DIR')
  if cache is None:
    assert found is None
  else:
    assert found.startswith(cache.format(tmp=tmp_path))


# A JAX that fails as the real one does; a command that prints its variables.
FAKE_JAX = '''
import os, sys
def devices():
  if '--xla_no_such' in os.environ.get('XLA_FLAGS', ''):
    print('2026-11-29 F external/xla/parse_flags.cc:226] Unknown flags in '
          'XLA_FLAGS: --xla_no_such ', file=sys.stderr)
    os.abort()
  assert os.environ.get('JAX_PLATFORMS') != 'cuda'
'''
COMMAND = '''
import json, os, sys
from lpg_distributed import errors
from lpg_distributed.launch import process_environment
try:
  process_environment.ensure(process_environment.WORKER)
except errors.UserError as error:
  sys.exit(errors.report(error))
print(json.dumps(dict(os.environ)))
'''


def run_command(tmp_path, name=sys.executable, **variables):
  (tmp_path / 'jax.py').write_text(FAKE_JAX)
  (tmp_path / 'a_command.py').write_text(COMMAND)
  base = {k: v for k, v in os.environ.items()
          if k not in (*process_environment.WORKER, 'LPG_ENVIRONMENT_SET')}
  return subprocess.run(
      [name, '-m', 'a_command'], executable=sys.executable,
      capture_output=True, text=True, check=False, cwd=tmp_path, env={
          **base, 'PYTHONPATH': f'{process_environment.root()}:{tmp_path}',
          **variables})


def test_a_command_starts_without_settings_that_change_numbers(tmp_path):
  """Under these, workers would die, or undamaged files would be refused."""
  settings = {'JAX_ENABLE_X64': '1', 'JAX_DEFAULT_PRNG_IMPL': 'rbg',
              'JAX_DEBUG_NANS': '1', 'JAX_DISABLE_JIT': '1',
              'PYTHONOPTIMIZE': '1'}
  # The variable marks a command that was started by another command.
  done = run_command(tmp_path, LPG_ENVIRONMENT_SET='1', **settings)
  found = json.loads(done.stdout)
  assert not settings.keys() & found.keys()
  assert found['NPROC'] == '1' and found['XLA_FLAGS'] == OURS
  assert found['grpc_proxy'] == ''
  assert len(done.stderr.splitlines()) == 1
  for name, value in settings.items():
    assert f'{name}={value}' in done.stderr


@pytest.mark.parametrize('variables, message', [
    ({'XLA_FLAGS': '--xla_no_such'},
     'XLA_FLAGS=--xla_no_such: Unknown flags in XLA_FLAGS: --xla_no_such'),
    ({'JAX_PLATFORMS': 'cuda'},
     'JAX_PLATFORMS=cuda: there is no such device')])
def test_settings_under_which_jax_does_not_start_are_refused(
    tmp_path, variables, message):
  """The error names the variable and not a file."""
  done = run_command(tmp_path, **variables)
  assert done.returncode == 2 and done.stdout == ''
  assert done.stderr == f'error: JAX does not start with {message}\n'


def test_a_low_limit_of_address_space_is_refused(monkeypatch):
  """Under `ulimit -v 1000000`, JAX's import would end in a traceback."""
  unlimited = resource.RLIM_INFINITY
  monkeypatch.setattr(resource, 'getrlimit', lambda kind: (10 ** 9, unlimited))
  with pytest.raises(global_settings.SettingsError, match=(
      r'may have 0\.9 GiB of addresses .*ulimit -v')):
    process_environment.ensure(process_environment.WORKER)
  monkeypatch.setattr(resource, 'getrlimit', lambda kind: (unlimited,) * 2)
  process_environment.check_addresses()


def test_an_interpreter_without_a_path_is_refused(tmp_path):
  """A program started as `python` with an empty PATH has none."""
  done = run_command(tmp_path, name='python', PATH='')
  assert done.returncode == 2 and done.stdout == ''
  assert done.stderr == (
      'error: Python does not know the path of its own program, since it was '
      "started as 'python' and PATH is ''; allowed: a PATH that has it, or its "
      'full path on the command line\n')


def test_the_installed_jax_fails_as_the_fake_one_does():
  with pytest.raises(global_settings.SettingsError,
                     match='Unknown flags in XLA_FLAGS: --xla_no_such'):
    process_environment._probe(
        {**os.environ, 'XLA_FLAGS': f'--xla_no_such=1 {OURS}'},
        process_environment.WORKER)
