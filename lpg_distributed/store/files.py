"""Files: whole or not there when written, and not trusted when read."""

import errno
import io
import os
import secrets
from typing import Callable, TextIO
import zipfile

import numpy as np

# How a file system says that it cannot wait for the disk.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
            errno.EBADF, errno.EACCES, errno.EPERM)


def write_whole(path: str, data: bytes) -> None:
  """Writes a file aside, waits until it is on the disk, and renames it.

  No symbolic link at its place is followed.
  """
  # Threads, and processes of other hosts, may write the same file.
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
  """Waits until what was renamed in a directory is on the disk."""
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


def read_arrays(data: bytes,
                check: Callable[[str, tuple[int, ...], np.dtype], None]
                ) -> dict[str, np.ndarray]:
  """The arrays of an `.npz`, each read only if it is what is expected.

  Nothing is unpickled, and no memory is taken for what is refused.

  Args:
    data: the file.
    check: raises for a name, shape and type that are not expected.

  Raises:
    Whatever `check` raises; nearly any error of zipfile, zlib and NumPy for a
    file that is damaged.
  """
  arrays = {}
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    for entry in archive.infolist():
      name = entry.filename.removesuffix('.npy')
      with archive.open(entry) as f:
        version = np.lib.format.read_magic(f)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                       (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read_header(f)
      if dtype.hasobject:
        raise ValueError(f'{name} holds Python objects')
      check(name, shape, dtype)
      with archive.open(entry) as f:
        arrays[name] = np.lib.format.read_array(f, allow_pickle=False)
  return arrays
