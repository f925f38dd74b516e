"""Run directories: owners, links, umasks, and unusual file systems."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys

import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import files
from lpg_distributed import presets
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import session
from lpg_distributed.store import loggers
from lpg_distributed.store import own_directory
from lpg_distributed.store import run_directory

DEMO = presets.demo()


def mode(path):
  return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def path(tmp_path):
  """The directory of a run that has ended."""
  path = str(tmp_path / 'run')
  run_directory.RunDirectory.open(path, DEMO).close()
  return path


def refused(path):
  with pytest.raises(config_lib.ConfigError) as info:
    run_directory.RunDirectory.open(path, DEMO)
  assert '\n' not in str(info.value)
  return str(info.value)


@pytest.mark.parametrize('name', ['lock', 'metrics/learner.jsonl',
                                  'logs/deaths.jsonl', 'tmp', 'checkpoints/a',
                                  'slurm', 'config.json'])
def test_links_in_a_run_directory_are_not_followed(path, tmp_path, name):
  """Otherwise the files to which they point would be emptied or overwritten."""
  private = tmp_path / 'private'
  private.write_text('a secret')
  link = os.path.join(path, name)
  if os.path.exists(link):
    os.remove(link)
  os.symlink(private, link)
  assert f'{link} is a symbolic link' in refused(path)
  assert private.read_text() == 'a secret'


def test_a_pipe_instead_of_a_file_is_refused(path):
  """Opening a pipe without a writer would block for ever."""
  os.remove(os.path.join(path, 'config.json'))
  os.mkfifo(os.path.join(path, 'config.json'))
  assert 'is no regular file' in refused(path)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can change owners')
def test_a_directory_of_another_user_is_refused(path, monkeypatch):
  os.chown(path, 4242, 4242)
  assert 'belongs to the user with number 4242' in refused(path)
  os.chown(path, 0, 0)
  os.chown(os.path.join(path, 'metrics'), 4242, 4242)
  assert 'metrics belongs to the user' in refused(path)
  # A directory of root is accepted, since root has access anyway.
  os.chown(os.path.join(path, 'metrics'), 0, 0)
  monkeypatch.setattr(os, 'geteuid', lambda: 77)
  run_directory.RunDirectory.open(path, DEMO).close()


def test_a_file_that_is_written_replaces_a_link(tmp_path):
  """Otherwise metrics would be written through `NAME.jsonl.aside`."""
  private = tmp_path / 'private'
  private.write_text('a secret')
  metrics = tmp_path / 'metrics'
  metrics.mkdir()
  os.symlink(private, metrics / 'x.jsonl.aside')
  loggers.MetricsLogger(str(tmp_path), 'x', tensorboard=False).close()
  assert private.read_text() == 'a secret'
  os.symlink(private, metrics / 'y')
  with pytest.raises(OSError, match='symbolic links'):
    files.open_to_append(str(metrics / 'y'))


UMASK = '''
import os, sys
os.umask(int(sys.argv[1], 8))
from lpg_distributed import presets
from lpg_distributed.launch.local import local_launchpad
from lpg_distributed.store import run_directory
run = run_directory.RunDirectory.open(sys.argv[2], presets.demo())
with local_launchpad.temporary_files(os.path.join(run.path, 'tmp')):
  for name in ('.', 'tmp', 'checkpoints', 'logs', '..'):
    print(oct(os.stat(os.path.join(run.path, name)).st_mode & 0o777))
'''


@pytest.mark.parametrize('umask', ['000', '002', '022'])
def test_others_cannot_write_in_a_run_whatever_the_umask(tmp_path, umask):
  """Otherwise they could replace a pickle under `tmp`, and run code."""
  done = subprocess.run(
      [sys.executable, '-c', UMASK, umask, str(tmp_path / 'runs' / 'demo')],
      capture_output=True, text=True, check=True)
  assert done.stdout.split() == ['0o755', '0o700', '0o755', '0o755', '0o755']


def test_write_permissions_of_other_users_are_removed(path):
  for name in ('', 'metrics'):
    os.chmod(os.path.join(path, name), 0o777)
  run_directory.RunDirectory.open(path, DEMO).close()
  assert mode(path) == mode(os.path.join(path, 'metrics')) == 0o755


def test_a_private_directory_is_for_its_owner_only(tmp_path):
  for _ in range(2):
    own_directory.make(str(tmp_path / 'a' / 'b'), private=True)
    assert mode(tmp_path / 'a' / 'b') == 0o700
    os.chmod(tmp_path / 'a' / 'b', 0o777)
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError):
    own_directory.make(str(tmp_path / 'file'))


def without_locks(monkeypatch, code=errno.ENOSYS):
  def fail(descriptor, operation):
    raise OSError(code, os.strerror(code))

  for name in ('flock', 'lockf'):
    monkeypatch.setattr(fcntl, name, fail)


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK,
                                  errno.EINVAL])
def test_a_file_system_without_locks_is_named_and_used(path, monkeypatch,
                                                       caplog, code):
  """It is not mistaken for a directory that another launch uses."""
  without_locks(monkeypatch, code)
  run = run_directory.RunDirectory.open(path, DEMO)
  assert 'file system without locks' in caplog.text
  assert os.strerror(code) in caplog.text
  assert f'by another launch, process {os.getpid()}' in refused(path)
  run.close()
  run_directory.RunDirectory.open(path, DEMO).close()


@pytest.mark.parametrize('owner', [
    {'host': 'elsewhere', 'pid': 1, 'start': '1'},
    {'pid': 2 ** 22 + 1, 'start': '1'}, {'pid': os.getpid(), 'start': '1'}])
def test_without_locks_a_dead_owner_is_logged_and_ignored(
    path, monkeypatch, caplog, owner):
  import socket
  without_locks(monkeypatch)
  with open(os.path.join(path, 'lock'), 'w', encoding='utf-8') as f:
    json.dump({'host': socket.gethostname(), **owner}, f)
  run_directory.RunDirectory.open(path, DEMO).close()
  assert f'last held by process {owner["pid"]}' in caplog.text


@pytest.mark.parametrize('content', ['[]', '{', 'null', '{"host": 3}', '\0'])
def test_without_locks_a_damaged_lock_file_is_ignored(
    path, monkeypatch, content):
  without_locks(monkeypatch)
  with open(os.path.join(path, 'lock'), 'w', encoding='utf-8') as f:
    f.write(content)
  run_directory.RunDirectory.open(path, DEMO).close()


def test_jobs_of_meta_testing_check_their_directories_too(tmp_path,
                                                          monkeypatch):
  """Otherwise `lpg atari` would skip each job in silence."""
  directory = tmp_path / 'job'
  directory.mkdir()
  (directory / 'lock').symlink_to('/etc/hostname')
  with pytest.raises(jobs.JobError, match='symbolic link'):
    session._lock(str(directory))
  (directory / 'lock').unlink()
  without_locks(monkeypatch)
  for _ in range(2):
    with session._lock(str(directory)), pytest.raises(session.JobInUseError):
      session._lock(str(directory))


@pytest.mark.parametrize('code', [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.parametrize('name', ['fsync', 'open'])
def test_a_file_system_that_cannot_sync_directories_is_used(
    tmp_path, monkeypatch, name, code):
  """The file is written all the same."""
  real = getattr(os, name)

  def fail(first, *args, **kwargs):
    place = first if name == 'open' else os.readlink(f'/proc/self/fd/{first}')
    if os.path.isdir(place):
      raise OSError(code, os.strerror(code))
    return real(first, *args, **kwargs)

  monkeypatch.setattr(os, name, fail)
  files.write_whole(str(tmp_path / 'x'), b'data')
  assert (tmp_path / 'x').read_bytes() == b'data'


def test_an_error_of_the_disk_while_syncing_is_raised(tmp_path, monkeypatch):
  def fail(descriptor):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(os, 'fsync', fail)
  with pytest.raises(OSError, match='Input/output error'):
    files.write_whole(str(tmp_path / 'x'), b'data')
  assert os.listdir(tmp_path) == []
