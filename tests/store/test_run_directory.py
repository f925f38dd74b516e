"""A run's directory: one launch at a time, one configuration, nothing lost."""

import json
import os
import subprocess
import sys

import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed import program_version
from lpg_distributed.launch import process_environment
from lpg_distributed.store import run_directory
from lpg_distributed.store import run_versions
from tests import directory_testing

RunDirectory = run_directory.RunDirectory
DEMO = presets.demo()


def changed(*overrides):
  return config_io.apply_overrides(DEMO, overrides)


def refused(path, config=DEMO):
  """Returns the message; asserts that nothing was changed."""
  parent = os.path.dirname(path)
  before = directory_testing.contents(parent)
  with pytest.raises(config_lib.ConfigError) as info:
    RunDirectory.open(str(path), config)
  assert directory_testing.contents(parent) == before
  assert '\n' not in str(info.value) and str(path) in str(info.value)
  return str(info.value)


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'runs' / 'demo')


def test_a_directory_is_made_and_opened_again(path):
  for _ in range(2):
    run = RunDirectory.open(path, DEMO)
    assert run.path == path
    assert set(os.listdir(path)) == {
        'config.json', 'versions.json', 'lock', 'metrics', 'checkpoints',
        'eta', 'figures', 'logs'}
    assert run_directory.read_config(path) == DEMO
    with open(os.path.join(path, 'versions.json'), encoding='utf-8') as f:
      found = json.load(f)
    assert {'python', 'jax', 'numpy', 'dm-reverb'} <= set(found)
    assert found['matmul_precision'] == 'highest'
    run.close()


def test_relative_paths_are_resolved_when_opened(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = RunDirectory.open('runs/demo', DEMO)
  monkeypatch.chdir('/')
  assert run.path == path
  run.close()


def test_a_directory_in_use_is_refused(path):
  run = RunDirectory.open(path, DEMO)
  assert 'in use by another launch' in refused(path)
  run.close()
  RunDirectory.open(path, DEMO).close()


HOLDER = '''
import sys
from lpg_distributed import presets
from lpg_distributed.store import run_directory
run = run_directory.RunDirectory.open(sys.argv[1], presets.demo())
print('held', flush=True)
sys.stdin.read()
'''


def test_a_killed_process_releases_its_lock(path):
  holder = subprocess.Popen(
      [sys.executable, '-c', HOLDER, path], text=True, stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={**os.environ, **process_environment.with_packages({})})
  try:
    assert holder.stdout.readline() == 'held\n'
    assert 'in use by another launch' in refused(path)
  finally:
    holder.kill()
    holder.communicate(timeout=30)
  RunDirectory.open(path, DEMO).close()


def test_another_configuration_is_refused_with_the_difference(path):
  RunDirectory.open(path, DEMO).close()
  message = refused(path, changed('meta.num_updates=3', 'run.seed=9',
                                  'run.meta_steps=9'))
  assert '(meta.num_updates: 5 -> 3; run.seed: 0 -> 9)' in message
  assert 'choose another --run_dir' in message
  assert 'more' not in message


def test_many_differences_are_counted(path):
  RunDirectory.open(path, DEMO).close()
  message = refused(path, presets.paper())
  assert len(message) < 1000
  number = len(config_io.difference(DEMO, presets.paper()))
  assert f'; and {number - 6} more)' in message


def test_changes_allowed_on_resume_are_written_by_update(path):
  RunDirectory.open(path, DEMO).close()
  before = directory_testing.contents(path)
  config = changed('run.meta_steps=9', 'run.num_workers=9',
                   'evaluator.enabled=false')
  run = RunDirectory.open(path, config)
  # Unchanged, since the launch may still be refused elsewhere.
  assert directory_testing.contents(path) == before
  run.update(config)
  assert run_directory.read_config(path) == config
  run.close()


def test_leftovers_of_a_launch_that_died_at_once_are_accepted(path):
  os.makedirs(path)
  for name in ('lock', 'config.json.123.aside'):
    with open(os.path.join(path, name), 'w', encoding='utf-8'):
      pass
  RunDirectory.open(path, DEMO).close()
  assert run_directory.read_config(path) == DEMO


@pytest.mark.parametrize('name', ['mkdir', 'replace'])
def test_an_error_at_any_change_leaves_a_usable_directory(
    tmp_path, monkeypatch, name):
  """Disks fill up at any time."""
  real = getattr(os, name)
  for allowed in range(30):
    path = str(tmp_path / str(allowed))
    calls = []

    def fail_late(*args, allowed=allowed, calls=calls, **kwargs):
      calls.append(args)
      if len(calls) > allowed:
        raise OSError(28, 'No space left on device')
      return real(*args, **kwargs)

    with monkeypatch.context() as patch:
      patch.setattr(os, name, fail_late)
      try:
        RunDirectory.open(path, DEMO).close()
        break
      except config_lib.ConfigError as error:
        assert 'No space left on device' in str(error)
    RunDirectory.open(path, DEMO).close()
    assert run_directory.read_config(path) == DEMO
  assert 1 < len(calls) <= allowed < 30


def test_directories_with_other_files_are_refused(tmp_path):
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'thesis.tex').write_text('x')
  assert 'neither empty nor a run' in refused(other)
  (other / 'lock').write_text('')
  assert 'neither empty nor a run' in refused(other)
  assert 'Not a directory' in refused(other / 'thesis.tex')
  assert 'Not a directory' in refused(other / 'thesis.tex' / 'run')


def test_an_empty_directory_is_used(tmp_path):
  RunDirectory.open(str(tmp_path), DEMO).close()
  assert run_directory.read_config(str(tmp_path)) == DEMO


def test_a_place_that_cannot_be_written_is_refused():
  with pytest.raises(config_lib.ConfigError, match='cannot be written'):
    RunDirectory.open('/proc/no_such_run', DEMO)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_place_without_permission_is_refused(tmp_path):
  (tmp_path / 'closed').mkdir(mode=0o500)
  assert 'Permission denied' in refused(tmp_path / 'closed' / 'run')


@pytest.mark.parametrize('content', [
    '', '{', '3', '{"x": 1}', '{"agents": 3}', '{"meta": {"num_updates": 0}}'])
def test_a_damaged_configuration_is_refused(path, content):
  RunDirectory.open(path, DEMO).close()
  with open(os.path.join(path, 'config.json'), 'w', encoding='utf-8') as f:
    f.write(content)
  assert 'config.json is not readable' in refused(path)


def test_read_config_refuses_what_is_no_run_directory(tmp_path):
  for place in (tmp_path, tmp_path / 'none'):
    with pytest.raises(config_lib.ConfigError, match='is no run directory'):
      run_directory.read_config(str(place))


def test_a_run_resumed_on_another_processor_logs_the_difference(
    path, monkeypatch, caplog):
  """The last bits of results depend on the processor."""
  file = os.path.join(path, 'versions.json')
  RunDirectory.open(path, DEMO).close()
  with open(file, encoding='utf-8') as f:
    record = json.load(f)
  assert record['processor'] == run_versions.processor() != ''
  monkeypatch.setattr(run_versions, 'processor', lambda: 'EPYC 9')
  # A host that only submits the job logs nothing.
  for computes, lines in ((False, 0), (True, 1), (True, 1)):
    run = RunDirectory.open(path, DEMO, computes)
    run.update(DEMO)
    run.close()
    assert caplog.text.count('goes on under other') == lines
  assert f'processor: {record["processor"]} -> EPYC 9' in caplog.text
  del record['processor']  # As in runs of older versions.
  with open(file, 'w', encoding='utf-8') as f:
    json.dump(record, f)
  run = RunDirectory.open(path, DEMO)
  run.update(DEMO)
  run.close()
  assert caplog.text.count('goes on under other') == 1


def test_a_run_resumed_under_other_settings_logs_the_difference(
    path, monkeypatch, caplog):
  """The file keeps the settings that the run began with."""
  monkeypatch.setenv('NPROC', '1')
  RunDirectory.open(path, DEMO).close()
  for _ in range(2):
    run = RunDirectory.open(path, DEMO)
    run.update(DEMO)
    run.close()
  assert 'goes on under other' not in caplog.text
  monkeypatch.setenv('NPROC', '7')
  run = RunDirectory.open(path, DEMO)
  run.update(DEMO)
  run.update(DEMO)
  run.close()
  assert caplog.text.count('goes on under other versions or settings') == 1
  assert 'NPROC: 1 -> 7' in caplog.text
  with open(os.path.join(path, 'versions.json'), encoding='utf-8') as f:
    found = json.load(f)
  assert found['settings']['NPROC'] == '7'
  assert [record['settings']['NPROC'] for record in found['earlier']] == ['1']


def _record(path):
  with open(os.path.join(path, 'versions.json'), encoding='utf-8') as f:
    return json.load(f)


def _launch(path):
  run = RunDirectory.open(path, DEMO)
  run.update(DEMO)
  run.close()


def test_a_run_resumed_by_another_commit_logs_the_difference(
    path, monkeypatch, caplog):
  version = {'lpg-distributed': '0.1.0', 'commit': 'abc'}
  monkeypatch.setattr(program_version, 'version', lambda: version)
  _launch(path)
  assert version.items() <= _record(path).items()
  version = {'lpg-distributed': '0.2.0', 'commit': 'abd, changed'}
  _launch(path)
  assert caplog.text.count('goes on under other') == 1
  assert '0.1.0 -> 0.2.0; commit: abc -> abd, changed' in caplog.text
  assert [record['commit'] for record in _record(path)['earlier']] == ['abc']
  # Runs of older versions have no such record.
  record = _record(path)
  del record['commit'], record['lpg-distributed']
  with open(os.path.join(path, 'versions.json'), 'w', encoding='utf-8') as f:
    json.dump(record, f)
  _launch(path)
  assert caplog.text.count('goes on under other') == 1


def test_a_run_resumed_on_another_device_logs_the_difference(path, caplog):
  _launch(path)
  assert run_versions.device(path) == ''
  for kind, lines in (('cpu', 0), ('cpu', 0), ('GPU 7', 1), ('GPU 7', 1)):
    run_versions.record_device(path, kind)
    _launch(path)  # The launcher does not know the device.
    assert run_versions.device(path) == kind
    assert caplog.text.count('goes on under other') == lines
  assert 'device: cpu -> GPU 7' in caplog.text
  assert [record['device'] for record in _record(path)['earlier']] == ['cpu']


@pytest.mark.parametrize('content', [None, '[1]', 'null', '{"settings": 3}'])
def test_a_device_is_not_recorded_in_a_damaged_record(path, content):
  _launch(path)
  file = os.path.join(path, 'versions.json')
  os.remove(file)
  if content:
    with open(file, 'w', encoding='utf-8') as f:
      f.write(content)
  run_versions.record_device(path, 'cpu')
  assert run_versions.device(path) == ''
  _launch(path)
  assert 'python' in _record(path)
