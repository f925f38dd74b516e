"""Checkpoints of a run: complete or absent, with checksums, never pickled.

A checkpoint is a directory of parts (`learner`, `bandit`, one per shard), each
written by its owner. The manifest, which has the checksums, is written last.
Until then the directory's name ends with `.incomplete`.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

from absl import logging

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed.store import tree_file

_FORMAT = 2
_MANIFEST = 'manifest.json'
_COMPLETE = re.compile(r'step_(\d{8,})')
_OPEN_SUFFIX = '.incomplete'
# Names that the manifest may have; no other file is opened.
_PART = re.compile(r'learner|bandit|shard_\d{5,12}')
_SHA256 = re.compile(r'[0-9a-f]{64}')
# Bytes of a manifest, of a part that is JSON, and of any part.
_LARGEST_MANIFEST, _LARGEST_JSON, _LARGEST_PART = 1 << 24, 1 << 24, 1 << 31
_PIECE = 1 << 20  # bytes that are read at once


class CheckpointError(errors.UserError, RuntimeError):
  """A checkpoint cannot be used; the message is one line."""


class PartRecord(NamedTuple):
  """Entry of a part in the manifest."""
  name: str
  sha256: str
  size: int


class Checkpoint(NamedTuple):
  """A complete checkpoint on disk."""
  path: str
  meta_step: int
  parts: tuple[PartRecord, ...]
  # Further fields of the manifest: the `config` of the run.
  about: Mapping[str, Any] = {}


def shard_part_name(shard_id: int) -> str:
  return f'shard_{shard_id:05d}'


def save_tree(tree: Any) -> bytes:
  """Encodes the arrays and numbers of a tree as `.npz`, named by path."""
  return tree_file.pack(tree_file.named_leaves(tree))


def load_tree(data: bytes, like: Any) -> Any:
  """The inverse of `save_tree`; returns the structure of `like`.

  Raises:
    CheckpointError: names, shapes or types differ from those of `like`.
  """
  try:
    with tree_file.open_tree(data) as saved:
      return saved.read_tree(like)
  except tree_file.TreeFileError as error:
    raise CheckpointError(
        f'the saved arrays are not this run\'s: {error}') from None


def _root(run_dir: str) -> str:
  return os.path.join(run_dir, 'checkpoints')


def _directory(run_dir: str, meta_step: int) -> str:
  return os.path.join(_root(run_dir), f'step_{meta_step:08d}')


def write_part(run_dir: str, meta_step: int, name: str,
               data: bytes) -> PartRecord:
  """Writes one part of an incomplete checkpoint.

  Raises:
    OSError: it cannot be written, or is too large to read back.
  """
  if len(data) > _LARGEST_PART:
    raise OSError(errno.EFBIG, f'{len(data)} bytes; allowed: up to '
                  f'{_LARGEST_PART}; lower run.lifetimes_per_shard', name)
  directory = _directory(run_dir, meta_step) + _OPEN_SUFFIX
  os.makedirs(directory, exist_ok=True)
  files.write_whole(os.path.join(directory, name), data)
  return PartRecord(name, hashlib.sha256(data).hexdigest(), len(data))


def commit(run_dir: str, meta_step: int, records: Sequence[PartRecord],
           kept: int, about: Optional[Mapping[str, Any]] = None) -> Checkpoint:
  """Completes a checkpoint; removes all but the newest `kept`.

  Args:
    run_dir: an opened run directory.
    meta_step: meta-step of the checkpoint.
    records: entries of all parts.
    kept: number of checkpoints to keep.
    about: further fields of the manifest, of JSON types.

  Raises:
    CheckpointError: a part is missing or has another size.
  """
  final = _directory(run_dir, meta_step)
  directory = final + _OPEN_SUFFIX
  for record in records:
    path = os.path.join(directory, record.name)
    size = os.path.getsize(path) if os.path.exists(path) else None
    if size != record.size:
      raise CheckpointError(f'part {record.name} of checkpoint {meta_step} '
                            f'has {size} bytes, and not {record.size}')
  records = sorted(records)
  manifest = {**(about or {}), 'format': _FORMAT, 'meta_step': meta_step,
              'parts': [record._asdict() for record in records]}
  files.write_whole(os.path.join(directory, _MANIFEST),
                    json.dumps(manifest, indent=1).encode())
  if os.path.exists(final):  # It is damaged, and was written before.
    shutil.rmtree(final)
  os.replace(directory, final)
  files.sync_directory(_root(run_dir))
  _remove_old(run_dir, meta_step, kept)
  return Checkpoint(final, meta_step, tuple(records), about or {})


def _steps(run_dir: str) -> list[int]:
  """Returns the meta-steps of complete checkpoints, oldest first."""
  if not os.path.isdir(_root(run_dir)):
    return []
  matches = map(_COMPLETE.fullmatch, os.listdir(_root(run_dir)))
  return sorted(int(match.group(1)) for match in matches if match)


def _remove_old(run_dir: str, meta_step: int, kept: int) -> None:
  for step in [s for s in _steps(run_dir) if s <= meta_step][:-kept]:
    shutil.rmtree(_directory(run_dir, step), ignore_errors=True)
  for name in os.listdir(_root(run_dir)):
    if name.endswith(_OPEN_SUFFIX):
      step = _COMPLETE.fullmatch(name[:-len(_OPEN_SUFFIX)])
      if step and int(step.group(1)) < meta_step:
        shutil.rmtree(os.path.join(_root(run_dir), name), ignore_errors=True)


def remove_incomplete(run_dir: str, but: int = -1) -> None:
  """Removes incomplete checkpoints.

  Args:
    run_dir: an opened run directory.
    but: meta-step of a checkpoint that is being written; it stays.
  """
  if not os.path.isdir(_root(run_dir)):
    return
  kept = os.path.basename(_directory(run_dir, but)) if but >= 0 else ''
  for name in os.listdir(_root(run_dir)):
    step = name.removesuffix(_OPEN_SUFFIX)
    if name != step and step != kept and _COMPLETE.fullmatch(step):
      shutil.rmtree(os.path.join(_root(run_dir), name), ignore_errors=True)


def remove_oldest(run_dir: str) -> Optional[int]:
  """Removes the oldest checkpoint, but never the newest.

  Returns:
    The meta-step of the removed checkpoint, or None.
  """
  steps = _steps(run_dir)
  if len(steps) < 2:
    return None
  shutil.rmtree(_directory(run_dir, steps[0]), ignore_errors=True)
  return steps[0]


def is_short_of_space(run_dir: str) -> bool:
  """Whether the disk has no space for another checkpoint like the newest."""
  steps = _steps(run_dir)
  if not steps:
    return False
  newest = _directory(run_dir, steps[-1])
  try:
    size = sum(entry.stat().st_size for entry in os.scandir(newest))
    disk = os.statvfs(newest)
  except OSError:
    return False
  return disk.f_bavail * disk.f_frsize < size


def open_step(run_dir: str, meta_step: int,
              verify: bool = True) -> Checkpoint:
  """Opens the checkpoint of a meta-step.

  Args:
    run_dir: an opened run directory.
    meta_step: meta-step of the checkpoint.
    verify: whether to verify all parts now; each part is verified when read.

  Raises:
    CheckpointError: it is missing, damaged, or of another version.
  """
  path = _directory(run_dir, meta_step)
  try:
    manifest = files.read_json(os.path.join(path, _MANIFEST),
                               _LARGEST_MANIFEST)
    if manifest['format'] != _FORMAT:
      raise CheckpointError(f'{path} has format {manifest["format"]}; allowed:'
                            f' {_FORMAT}')
    if manifest['meta_step'] != meta_step:
      raise CheckpointError(f'{path} holds meta-step {manifest["meta_step"]}')
    parts = tuple(_check_record(PartRecord(**part))
                  for part in manifest['parts'])
    about = {'config': manifest['config']} if 'config' in manifest else {}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CheckpointError(
        f'{path} has no readable manifest ({error})') from None
  checkpoint = Checkpoint(path, meta_step, parts, about)
  for part in parts if verify else ():
    verify_part(checkpoint, part.name)
  return checkpoint


def _check_record(record: PartRecord) -> PartRecord:
  """Raises ValueError if this program cannot have written the record."""
  if not _PART.fullmatch(record.name):
    raise ValueError(f'a part is called {record.name!r}')
  if not _SHA256.fullmatch(record.sha256):
    raise ValueError(f'the sum of {record.name} is none')
  if type(record.size) is not int or not 0 <= record.size <= _LARGEST_PART:
    raise ValueError(f'the size of {record.name} is {record.size!r}')
  return record


def latest(run_dir: str) -> Optional[Checkpoint]:
  """Opens the newest intact checkpoint; returns None if there is none.

  For a damaged checkpoint it warns and tries the one before.

  Raises:
    CheckpointError: all checkpoints are damaged.
  """
  damaged = []
  for step in reversed(_steps(run_dir)):
    try:
      checkpoint = open_step(run_dir, step)
    except CheckpointError as error:
      damaged.append(str(error))
      continue
    for message in damaged:
      logging.warning('not used: %s', message)
    return checkpoint
  if damaged:
    raise CheckpointError(f'no checkpoint is whole: {"; ".join(damaged)}; '
                          f'remove {_root(run_dir)} to begin anew')
  return None


def require_same_config(checkpoint: Checkpoint,
                        config: config_lib.Config) -> None:
  """Refuses a checkpoint of a run with another configuration.

  Raises:
    CheckpointError: the configurations differ; names the fields.
  """
  if 'config' not in checkpoint.about:
    return
  try:
    saved = config_io.from_dict(checkpoint.about['config'])
  except config_lib.ConfigError as error:
    raise CheckpointError(
        f'{checkpoint.path} is of another version: {error}') from None
  changes = config_io.difference(saved, config)
  if changes:
    raise CheckpointError(f'{checkpoint.path} is of another configuration: '
                          f'{"; ".join(changes[:6])}')


def _find_part(checkpoint: Checkpoint, name: str) -> tuple[str, PartRecord]:
  """Returns path and record of a part; CheckpointError if there is none."""
  records = {record.name: record for record in checkpoint.parts}
  if name not in records:
    raise CheckpointError(f'{checkpoint.path} has no part {name}')
  return os.path.join(checkpoint.path, name), records[name]


def _read_verified(path: str, record: PartRecord) -> Iterator[bytes]:
  """Yields a part's data in pieces; compares the checksum after the last.

  Raises:
    CheckpointError: it is missing, truncated or changed.
  """
  digest = hashlib.sha256()
  try:
    with files.open_regular(path) as f:
      size = os.fstat(f.fileno()).st_size
      if size != record.size:
        raise CheckpointError(f'{path} is damaged: {size} bytes, and not '
                              f'{record.size}')
      while data := f.read(_PIECE):
        digest.update(data)
        yield data
  except OSError as error:
    raise CheckpointError(f'{path} cannot be read: {error}') from None
  if digest.hexdigest() != record.sha256:
    raise CheckpointError(f'{path} is damaged: its sum is not the manifest\'s')


def verify_part(checkpoint: Checkpoint, name: str) -> None:
  """Compares a part with its checksum, a piece at a time.

  Raises:
    CheckpointError: it is missing, truncated or changed.
  """
  for _ in _read_verified(*_find_part(checkpoint, name)):
    pass


def read_part(checkpoint: Checkpoint, name: str,
              largest: int = _LARGEST_PART) -> bytes:
  """Returns the verified data of a part.

  Args:
    checkpoint: a complete checkpoint.
    name: name of the part.
    largest: largest allowed size in bytes.

  Raises:
    CheckpointError: it is missing, too large, truncated or changed.
  """
  path, record = _find_part(checkpoint, name)
  if record.size > largest:
    raise CheckpointError(f'{path} has {record.size} bytes; allowed: up to '
                          f'{largest}')
  return b''.join(_read_verified(path, record))


def read_tree(checkpoint: Checkpoint, name: str, like: Any) -> Any:
  """Reads a part of `save_tree` into the structure of `like`.

  Raises:
    CheckpointError: it is damaged, or its arrays differ from those of `like`.
  """
  return load_tree(read_part(checkpoint, name, tree_file.size_of(like)), like)


def load_json(checkpoint: Checkpoint, name: str) -> dict[str, Any] | None:
  """Reads a part that is a JSON object, or null: of a run without any step.

  Raises:
    CheckpointError: it is damaged.
  """
  data = read_part(checkpoint, name, _LARGEST_JSON)
  try:
    return None if data == b'null' else files.parse_object(data)
  except ValueError as error:
    raise CheckpointError(f'part {name} of {checkpoint.path} is not readable: '
                          f'{error}') from None
