"""Files that are whole or not there, whenever a writer dies."""

import os


def write_whole(path: str, data: bytes) -> None:
  """Writes a file aside, waits until it is on the disk, and renames it."""
  aside = f'{path}.{os.getpid()}.aside'
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
