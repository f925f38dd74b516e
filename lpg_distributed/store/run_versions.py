"""Records what a run was made with: versions, processor, device, settings.

Numbers may differ in their last bits under other ones, so a launch that differs
from those before it warns, and their records are kept.
"""

import importlib.metadata
import json
import os
import platform
from typing import Any, Mapping

from absl import logging

from lpg_distributed import config as config_lib
from lpg_distributed import files
from lpg_distributed import global_settings
from lpg_distributed import program_version

FILE = 'versions.json'
_PACKAGES = ('jax', 'jaxlib', 'numpy', 'dm-haiku', 'optax', 'rlax', 'chex',
             'dm-env', 'dm-launchpad-nightly', 'dm-reverb', 'ale-py')
_EARLIER = 'earlier'  # key of the records of earlier launches that differed
_MOST_EARLIER = 20
# Fields that runs of older versions do not have.
_ADDED = ('processor', 'lpg-distributed', 'commit')
_DEVICE = 'device'  # written by a worker, since the launcher must not use it


def processor() -> str:
  """Returns the model of the processor; the architecture if it is unknown."""
  try:
    with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as f:
      for line in f:
        name, _, value = line.partition(':')
        if name.strip() == 'model name' and value.strip():
          return value.strip()
  except OSError:
    pass
  return platform.machine()


def versions() -> dict[str, str]:
  """Returns the versions that affect results, and the processor."""
  found = {**program_version.version(), 'python': platform.python_version(),
           'platform': platform.platform(), 'processor': processor()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


def _read(run_dir: str) -> dict[str, Any]:
  """Reads the record of an earlier launch; {} if it cannot be read."""
  try:
    found = files.read_object(os.path.join(run_dir, FILE))
  except (OSError, ValueError):
    return {}
  if not isinstance(found.get(_EARLIER, []), list):
    return {}
  # Runs of older versions recorded no settings.
  return found if isinstance(found.get('settings'), dict) else {}


def _write(run_dir: str, record: Mapping[str, Any]) -> None:
  files.write_whole(os.path.join(run_dir, FILE),
                    (json.dumps(record, indent=1) + '\n').encode())


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
  return {**{name: value for name, value in record.items()
             if name != 'settings'}, **record['settings']}


def _replace(run_dir: str, before: Mapping[str, Any],
             now: Mapping[str, Any]) -> None:
  """Writes a record after that of an earlier launch; warns if they differ."""
  before = dict(before)
  earlier = before.pop(_EARLIER, [])
  if before and before != now:
    changes = global_settings.differences(_flat(before), _flat(now))
    logging.warning(
        '%s goes on under other versions or settings, so that numbers may '
        'differ: %s', run_dir, '; '.join(changes))
    earlier = [*earlier, before][-_MOST_EARLIER:]
  _write(run_dir, {**now, **({_EARLIER: earlier} if earlier else {})})


def record(run_dir: str, config: config_lib.Config) -> None:
  """Records versions and settings of this process; warns if they changed.

  The device stays as it is until `record_device`.

  Raises:
    OSError: the file cannot be written.
  """
  before = _read(run_dir)
  now = {**versions(), 'matmul_precision': config.run.matmul_precision,
         'settings': global_settings.recorded()}
  if before:
    before = {**{name: now[name] for name in _ADDED if name in now}, **before}
  if _DEVICE in before:
    now[_DEVICE] = before[_DEVICE]
  _replace(run_dir, before, now)


def device(run_dir: str) -> str:
  """Returns the kind of device that a run computes on; '' if unknown."""
  return str(_read(run_dir).get(_DEVICE, ''))


def record_device(run_dir: str, kind: str) -> None:
  """Records the kind of device; warns if the run was on another one.

  Does nothing if the directory has no record of versions. A file that cannot be
  written is logged.
  """
  before = _read(run_dir)
  if not before or before.get(_DEVICE) == kind:
    return
  now = {name: value for name, value in before.items() if name != _EARLIER}
  try:
    _replace(run_dir, {_DEVICE: kind, **before}, {**now, _DEVICE: kind})
  except OSError as error:
    logging.error('the device is not recorded: %s', error)
