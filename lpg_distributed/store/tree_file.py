"""Reads and writes trees of arrays as `.npz` files.

All `.npz` files are read here. Files are not trusted: nothing is unpickled, and
headers are checked first. Memory is allocated only for arrays that the caller
names and that have their declared size.
"""

import contextlib
import io
import json
import math
from typing import Any, BinaryIO, Iterator, Mapping, NamedTuple, Union
import zipfile

import jax
import numpy as np

from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed import former_names

HEADER = 'header'  # The member that holds JSON, as one NumPy text.
# Largest list of the archive's members in bytes, about 10,000 members.
_LARGEST_DIRECTORY = 1 << 20
_LARGEST_ARRAY_HEADER = 4096  # bytes
_LARGEST_JSON = 1 << 22  # bytes, at four for each character
_MAGIC = np.lib.format.magic(1, 0)


class TreeFileError(errors.UserError, ValueError):
  """A file lacks the expected arrays; the message is one line."""


class ArraySpec(NamedTuple):
  """Declared shape and type of an array, known before it is read."""
  shape: tuple[int, ...]
  dtype: np.dtype

  def __str__(self) -> str:
    return f'{self.dtype}{list(self.shape)}'

  @property
  def size(self) -> int:
    """Bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


def check_format(header: Mapping[str, Any], name: str) -> None:
  """Raises ValueError, or KeyError, if a header is not of the format `name`."""
  if header['format'] != name:
    raise ValueError(f'its format is {header["format"]!r}; allowed: {name!r}')


def spec_of(leaf: Any) -> ArraySpec:
  """Returns the spec of an array, a number or a `jax.ShapeDtypeStruct`."""
  if not hasattr(leaf, 'shape') or not hasattr(leaf, 'dtype'):
    leaf = np.asarray(leaf)
  return ArraySpec(tuple(leaf.shape), np.dtype(leaf.dtype))


def named_leaves(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by their paths, the names in files."""
  return {jax.tree_util.keystr(path): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def pack(leaves: Mapping[str, Any], header: Any = None,
         compressed: bool = False) -> bytes:
  """Encodes arrays as an `.npz` file.

  Args:
    leaves: arrays and numbers by name.
    header: content of JSON types; None: the file has no header.
    compressed: whether to compress the arrays.
  """
  arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
  if header is not None:
    arrays[HEADER] = np.array(json.dumps(header))
  buffer = io.BytesIO()
  (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
  return buffer.getvalue()


class _Archive:
  """A seekable file that refuses large reads while it is being opened."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.limit = _LARGEST_DIRECTORY

  def read(self, size: int = -1) -> bytes:
    if not self.limit:
      return self._file.read(size)
    data = self._file.read(self.limit + 1 if size < 0 else
                           min(size, self.limit + 1))
    if len(data) > self.limit:
      raise ValueError('it lists too many members')
    return data

  def __getattr__(self, name: str) -> Any:
    return getattr(self._file, name)


def _read_spec(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> ArraySpec:
  """Reads the spec of one member; ValueError if NumPy did not write it."""
  if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f'{entry.filename!r} has compression '
                     f'{entry.compress_type}; allowed: none, deflate')
  with archive.open(entry) as f:
    start = f.read(len(_MAGIC) + 2)
    if start[:len(_MAGIC)] != _MAGIC:
      raise ValueError(f'{entry.filename!r} is no array of version 1.0')
    length = int.from_bytes(start[len(_MAGIC):], 'little')
    if length > _LARGEST_ARRAY_HEADER:
      raise ValueError(f'the header of {entry.filename!r} has {length} bytes')
    shape, _, dtype = np.lib.format.read_array_header_1_0(
        io.BytesIO(start[len(_MAGIC):] + f.read(length)))
  if dtype.hasobject:
    raise ValueError(f'{entry.filename!r} holds Python objects')
  spec = ArraySpec(shape, dtype)
  declared = entry.file_size - len(start) - length
  if min(shape, default=0) < 0 or declared != spec.size:
    raise ValueError(f'{entry.filename!r} declares {declared} bytes for '
                     f'{spec}')
  return spec


@contextlib.contextmanager
def _report_damage() -> Iterator[None]:
  """Converts errors of reading a file to a TreeFileError of one line."""
  try:
    yield
  except (FileNotFoundError, errors.UserError):
    raise
  # Damage can raise nearly any error of zipfile, zlib, NumPy or JSON.
  except Exception as error:  # pylint: disable=broad-except
    raise TreeFileError(' '.join(str(error).split())
                        or type(error).__name__) from None


class TreeReader:
  """An open file, with all headers checked and no array read yet."""

  def __init__(self, archive: zipfile.ZipFile):
    self._archive = archive
    self._entries: dict[str, zipfile.ZipInfo] = {}
    self.specs: dict[str, ArraySpec] = {}
    for entry in archive.infolist():
      name = entry.filename.removesuffix('.npy')
      if name in self.specs or name == entry.filename:
        raise ValueError(f'{entry.filename!r} is there twice, or is no array')
      self._entries[name] = entry
      self.specs[name] = _read_spec(archive, entry)

  def read(self, name: str, like: Any) -> np.ndarray:
    """Reads an array, which must have the shape and type of `like`.

    Raises:
      TreeFileError: the array is missing, or has another shape or type.
    """
    wanted = spec_of(like)
    if name not in self.specs:
      raise TreeFileError(f'it has no {name}')
    if self.specs[name] != wanted:
      raise TreeFileError(f'{name} is {self.specs[name]}; needed: {wanted}')
    with _report_damage(), self._archive.open(self._entries[name]) as f:
      return np.lib.format.read_array(f, allow_pickle=False)

  def read_header(self) -> dict[str, Any]:
    """Reads the header that was given to `pack`.

    Raises:
      TreeFileError: there is none, it is too large, or it is no mapping.
    """
    spec = self.specs.get(HEADER)
    if (spec is None or spec.dtype.kind != 'U' or spec.shape
        or spec.size > _LARGEST_JSON):
      raise TreeFileError('it has no header' if spec is None else
                          f'its header is {spec}')
    with _report_damage():
      return files.parse_object(self.read(HEADER, spec).item())

  def read_leaves(self, likes: Mapping[str, Any],
                  partial: bool = False) -> dict[str, np.ndarray]:
    """Reads arrays by name, after comparing the specs of all of them.

    Args:
      likes: expected arrays, numbers or shapes.
      partial: whether the file may hold further arrays.

    Raises:
      TreeFileError: an array is missing or differs; names it.
    """
    names = self.specs.keys() - {HEADER}
    for name in sorted(likes.keys() - names):
      raise TreeFileError(f'it holds other arrays: {name} is missing')
    for name in sorted(names - likes.keys()) if not partial else ():
      raise TreeFileError(f'it holds other arrays: {name} is not expected')
    for name, like in likes.items():
      if self.specs[name] != spec_of(like):
        raise TreeFileError(
            f'{name} is {self.specs[name]}; needed: {spec_of(like)}')
    return {name: self.read(name, like) for name, like in likes.items()}

  def read_tree(self, like: Any, partial: bool = False) -> Any:
    """Reads a tree whose `named_leaves` were packed, structured as `like`.

    Raises:
      TreeFileError: names, shapes or types differ from those of `like`.
    """
    likes = {self._stored_name(name): leaf
             for name, leaf in named_leaves(like).items()}
    leaves = self.read_leaves(likes, partial)
    return jax.tree_util.tree_unflatten(
        jax.tree_util.tree_structure(like), [leaves[name] for name in likes])

  def _stored_name(self, name: str) -> str:
    """Returns the name of an array in this file, perhaps a former one."""
    former = former_names.of_array(name)
    return former if name not in self.specs and former in self.specs else name


def size_of(like: Any) -> int:
  """Returns the largest size in bytes of such a tree's uncompressed file."""
  return (1 << 16) + sum(
      spec_of(leaf).size + _LARGEST_ARRAY_HEADER + 4 * len(name)
      for name, leaf in named_leaves(like).items())


@contextlib.contextmanager
def open_tree(source: Union[str, bytes]) -> Iterator[TreeReader]:
  """Opens a file, given its path or its bytes.

  Raises:
    FileNotFoundError: there is no such file.
    TreeFileError: the file is damaged or of another kind.
  """
  with contextlib.ExitStack() as stack:
    with _report_damage():
      file = (io.BytesIO(source) if isinstance(source, bytes)
              else stack.enter_context(files.open_regular(source)))
      guarded = _Archive(file)
      archive = stack.enter_context(zipfile.ZipFile(guarded))
      guarded.limit = 0
      reader = TreeReader(archive)
    yield reader
