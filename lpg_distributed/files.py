"""Writes files atomically, and reads files without trusting them."""

import errno
import json
import os
import re
import secrets
import stat
from typing import Any, BinaryIO, Iterable, TextIO, Union

# Errors of `fsync` on file systems that do not support it.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
            errno.EBADF, errno.EACCES, errno.EPERM)
_MAX_DEPTH = 100  # levels of groups in JSON
# Strings, which may hold brackets, and brackets. It matches a string without an
# end too, so that it never looks at a character twice.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


def write_whole(path: str, data: bytes | Iterable[bytes]) -> None:
  """Replaces a file atomically: writes a temporary file, syncs it, renames it.

  A symbolic link at `path` is replaced and not followed.

  Args:
    path: the file. Parts of `data` may be read from it.
    data: the content, or its parts one after the other.
  """
  # A random name, since other threads and hosts may write the same file.
  aside = f'{path}.{secrets.token_hex(8)}.aside'
  try:
    with open(aside, 'xb') as f:
      for part in (data,) if isinstance(data, bytes) else data:
        f.write(part)
      f.flush()
      _sync(f.fileno())
    os.replace(aside, path)
  except BaseException:
    if os.path.exists(aside):
      os.remove(aside)
    raise
  sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
  """Waits until changes in a directory, such as renames, are on the disk."""
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
  """Waits until data is on the disk, if the file system supports it.

  Some file systems support it for files but not for directories. A renamed file
  is complete even there, but after a loss of power the old one may be back.
  """
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in _NO_SYNC:
      raise


def open_to_append(path: str) -> TextIO:
  """Opens a text file to append lines; refuses a symbolic link."""
  descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT
                       | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
  return os.fdopen(descriptor, 'a', encoding='utf-8')


def open_regular(path: str) -> BinaryIO:
  """Opens a regular file for reading; never blocks, as opening a pipe would.

  Raises:
    OSError: there is no file, or it is a directory, a pipe or a device.
  """
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  try:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
      raise OSError(errno.EINVAL, 'not a plain file', path)
    return os.fdopen(descriptor, 'rb')
  except BaseException:
    os.close(descriptor)
    raise


def read_text(path: str, largest: int = 1 << 26) -> str:
  """Returns the content of a text file in UTF-8, with or without a mark.

  Args:
    path: path of the file.
    largest: largest allowed size in bytes.

  Raises:
    OSError: it cannot be read.
    ValueError: it is too large, or is no text.
  """
  with open_regular(path) as f:
    data = f.read(largest + 1)
  if len(data) > largest:
    raise ValueError(f'it has more than {largest} bytes')
  return data.decode('utf-8-sig')


def read_json(path: str, largest: int = 1 << 26) -> Any:
  """Returns the content of a JSON file; arguments as of `read_text`.

  Raises:
    OSError: it cannot be read.
    ValueError: it is not JSON, too large, or nested too deeply.
  """
  return parse_json(read_text(path, largest))


def read_object(path: str, largest: int = 1 << 26) -> dict[str, Any]:
  """Returns the object in a JSON file; arguments as of `read_text`.

  Raises:
    OSError, ValueError: as `read_json`; ValueError also if it is no object.
  """
  return _require_object(read_json(path, largest))


def parse_object(data: Union[bytes, str]) -> dict[str, Any]:
  """Like `parse_json`, but raises ValueError if data is no object."""
  return _require_object(parse_json(data))


def _require_object(content: Any) -> dict[str, Any]:
  if not isinstance(content, dict):
    raise ValueError('it is no JSON object')
  return content


def parse_json(data: Union[bytes, str]) -> Any:
  """Like `json.loads`, but raises ValueError if data is nested too deeply.

  What reads the result may then call itself for each level.
  """
  text = (data if isinstance(data, str)
          else data.decode(json.detect_encoding(data), 'surrogatepass'))
  if _is_deep(text):
    raise ValueError('its groups are nested too deep')
  return json.loads(text)


def _is_deep(text: str) -> bool:
  """Returns whether brackets are nested over _MAX_DEPTH; reads no further."""
  if text.count('[') + text.count('{') <= _MAX_DEPTH:
    return False
  depth = 0
  for found in _BRACKETS.finditer(text):
    depth += {'[': 1, '{': 1, ']': -1, '}': -1}.get(found[0], 0)
    if depth > _MAX_DEPTH:
      return True
  return False
