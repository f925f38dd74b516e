"""Files: whole or not there when written, and not trusted when read."""

import io
import os
import secrets
from typing import Callable
import zipfile

import numpy as np


def write_whole(path: str, data: bytes) -> None:
  """Writes a file aside, waits until it is on the disk, and renames it."""
  # Threads, and processes of other hosts, may write the same file.
  aside = f'{path}.{secrets.token_hex(8)}.aside'
  try:
    with open(aside, 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(aside, path)
  except BaseException:
    if os.path.exists(aside):
      os.remove(aside)
    raise
  sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
  """Waits until what was renamed in a directory is on the disk."""
  descriptor = os.open(path or '.', os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


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
