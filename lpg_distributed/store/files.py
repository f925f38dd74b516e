"""Files that are written whole or not at all, and not trusted when read."""

import errno
import json
import os
import secrets
import stat
from typing import Any, BinaryIO, TextIO, Union

# How a file system says that it cannot wait for the disk.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
            errno.EBADF, errno.EACCES, errno.EPERM)


def write_whole(path: str, data: bytes) -> None:
  """Writes a temporary file, waits until it is on the disk, renames it.

  No symbolic link at its place is followed.
  """
  # A random name, since other threads and hosts may write the same file.
  aside = f'{path}.{secrets.token_hex(8)}.aside'
  try:
    with open(aside, 'xb') as f:
      f.write(data)
      f.flush()
      _sync(f.fileno())
    os.replace(aside, path)
  except BaseException:
    if os.path.exists(aside):
      os.remove(aside)
    raise
  sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
  """Waits until changes of a directory, such as renames, are on the disk."""
  try:
    descriptor = os.open(path or '.', os.O_RDONLY)
  except OSError as error:
    if error.errno not in _NO_SYNC:
      raise
    return
  try:
    _sync(descriptor)
  finally:
    os.close(descriptor)


def _sync(descriptor: int) -> None:
  """Waits for the disk, where the file system knows how to.

  Some know it for files and not for directories. What was renamed is whole or
  not there even so; after a loss of power the older file may be back.
  """
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in _NO_SYNC:
      raise


def open_to_append(path: str) -> TextIO:
  """A file of lines; refuses a symbolic link."""
  descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT
                       | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
  return os.fdopen(descriptor, 'a', encoding='utf-8')


def open_regular(path: str) -> BinaryIO:
  """Opens a plain file for reading; never waits, as for a writer of a pipe.

  Raises:
    OSError: there is none, or it is a directory, a pipe or a device.
  """
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  try:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
      raise OSError(errno.EINVAL, 'not a plain file', path)
    return os.fdopen(descriptor, 'rb')
  except BaseException:
    os.close(descriptor)
    raise


def read_json(path: str, largest: int = 1 << 26) -> Any:
  """The content of a JSON file.

  Args:
    path: of the file.
    largest: number of bytes that the file may have.

  Raises:
    OSError: it cannot be read.
    ValueError: it is no JSON, too large, or nested too deep.
  """
  with open_regular(path) as f:
    data = f.read(largest + 1)
  if len(data) > largest:
    raise ValueError(f'it has more than {largest} bytes')
  return parse_json(data)


def parse_json(data: Union[bytes, str]) -> Any:
  """As `json.loads`, with ValueError also for what is nested too deep."""
  try:
    return json.loads(data)
  except RecursionError:
    raise ValueError('its groups are nested too deep') from None
