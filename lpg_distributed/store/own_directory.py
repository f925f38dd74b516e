"""Directories that belong to the user, and to one process at a time.

A directory may come from somebody else, as an archive, or others may be able to
write to it. So its content must not lead out of it, and others must not change
it while it is in use. The process that uses it holds a lock.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
from typing import Any, Optional, TextIO

from absl import logging

from lpg_distributed import errors
from lpg_distributed import files

LOCK = 'lock'
_IN_USE = (errno.EWOULDBLOCK, errno.EACCES)
_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class DirectoryError(errors.UserError, OSError):
  """A directory cannot be used; the message is one line."""

  def __str__(self) -> str:
    return str(self.args[0])


class DirectoryInUseError(DirectoryError):
  """Another process uses the directory."""


def make(path: str, private: bool = False) -> None:
  """Makes a directory in which others cannot write, whatever the umask.

  Write access of others to an existing directory is removed.

  Args:
    path: path of the directory; parents are made if they do not exist.
    private: whether to deny others to read it too.

  Raises:
    OSError: it cannot be made.
  """
  mode = 0o700 if private else 0o755
  parent = os.path.dirname(os.path.abspath(path))
  if not os.path.isdir(parent):
    make(parent)
  try:
    os.mkdir(path, mode)
  except FileExistsError:
    if not os.path.isdir(path):
      raise
    found = os.stat(path)
    if found.st_uid != os.geteuid():
      return
    mode = found.st_mode & ~(0o077 if private else _OF_OTHERS)
    if mode == found.st_mode:
      return
  os.chmod(path, stat.S_IMODE(mode))


def _require_owner(path: str, found: os.stat_result) -> None:
  # Root has all rights anyway, and owns the volumes of containers.
  if found.st_uid not in (os.geteuid(), 0):
    raise DirectoryError(
        f'{path} belongs to the user with number {found.st_uid}, who could '
        'change it at any time; allowed: your own, for example a copy')


def require_own(path: str) -> None:
  """Checks a directory and its content; removes write access of others.

  The path itself may be a symbolic link, since the user chose it. `tmp` is not
  checked, since it will be emptied.

  Raises:
    DirectoryError: it has an owner other than the user, or holds something
      that is neither a file nor a directory.
  """
  found = os.stat(path)
  _require_owner(path, found)
  if found.st_uid == os.geteuid() and found.st_mode & _OF_OTHERS:
    os.chmod(path, stat.S_IMODE(found.st_mode) & ~_OF_OTHERS)
  with os.scandir(path) as entries:
    for entry in entries:
      if entry.is_dir(follow_symlinks=False):
        if entry.name == 'tmp':
          _require_owner(entry.path, entry.stat(follow_symlinks=False))
        else:
          require_own(entry.path)
      elif not entry.is_file(follow_symlinks=False):
        kind = ('a symbolic link' if entry.is_symlink()
                else 'no regular file')
        raise DirectoryError(f'{entry.path} is {kind}; allowed in this '
                             'directory: files and directories; remove it')


class Lock:
  """The lock of a directory; released by `close` or the process's end."""

  def __init__(self, file: TextIO):
    self._file = file

  def __enter__(self) -> 'Lock':
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()

  def close(self) -> None:
    if not self._file.closed:
      with contextlib.suppress(OSError):  # The disk fails.
        self._file.truncate(0)
      with contextlib.suppress(OSError):
        self._file.close()


def hold(path: str) -> Lock:
  """Locks an existing directory.

  If the file system has no locks, the lock file names the process that uses the
  directory. A process of another host is not detected then, so this warns.

  Raises:
    DirectoryInUseError: another process uses it.
    OSError: the lock cannot be opened.
  """
  file = os.path.join(path, LOCK)
  descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                       | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
  lock = os.fdopen(descriptor, 'r+', encoding='utf-8')
  try:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
      raise DirectoryError(f'{file} is no regular file; remove it')
    obstacle = _try(fcntl.flock, descriptor, path)
    if obstacle is not None:
      _try(fcntl.lockf, descriptor, path)
      _note_owner(lock, path, obstacle)
  except BaseException:
    lock.close()
    raise
  return Lock(lock)


def _try(call, descriptor: int, path: str) -> Optional[OSError]:
  """Locks the file; returns the error if the file system has no locks."""
  try:
    call(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _IN_USE:
      raise DirectoryInUseError(f'{path} is in use by another launch') from None
    return error
  return None


def _start_of(pid: int) -> Optional[str]:
  """Returns the start time of a process of this host; None: no process."""
  try:
    with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
      fields = f.read().rpartition(')')[2].split()
    return None if fields[0] == 'Z' else fields[19]
  except (OSError, LookupError):
    return None


def _note_owner(lock: TextIO, path: str, obstacle: OSError) -> None:
  """Refuses if the file names a running process; then writes this one."""
  me: dict[str, Any] = {'host': socket.gethostname(), 'pid': os.getpid(),
                        'start': _start_of(os.getpid())}
  try:
    owner = files.parse_json(lock.read() or '{}')
    host, pid, start = (owner.get(k) for k in ('host', 'pid', 'start'))
  except (ValueError, AttributeError):
    host = pid = start = None
  if host == me['host'] and type(pid) is int and start == _start_of(pid):
    raise DirectoryInUseError(
        f'{path} is in use by another launch, process {pid}')
  logging.warning(
      '%s is on a file system without locks (%s)%s; see that no other launch '
      'uses it', path, obstacle.strerror,
      f', and was last held by process {pid} of {host}' if host else '')
  lock.seek(0)
  lock.truncate()
  json.dump(me, lock)
  lock.flush()
