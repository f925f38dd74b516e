"""The directory of a run: its configuration, versions, lock and files.

config.json, versions.json, metrics/, checkpoints/, eta/, figures/, logs/
"""

import fcntl
import importlib.metadata
import json
import os
import platform

from lpg_distributed import config as config_lib
from lpg_distributed import config_io

_PACKAGES = ('jax', 'jaxlib', 'numpy', 'dm-haiku', 'optax', 'rlax', 'chex',
             'dm-env', 'dm-launchpad-nightly', 'dm-reverb', 'ale-py')
_DIRECTORIES = ('metrics', 'checkpoints', 'eta', 'figures', 'logs')
_CONFIG = 'config.json'


def versions() -> dict[str, str]:
  """Of Python and of what decides about numbers."""
  found = {'python': platform.python_version(),
           'platform': platform.platform()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


def read_config(path: str) -> config_lib.Config:
  """The configuration of the run at `path`.

  Raises:
    ConfigError: it is no run directory, or its configuration is damaged.
  """
  file = os.path.join(path, _CONFIG)
  try:
    with open(file, encoding='utf-8') as f:
      return config_io.from_dict(json.load(f))
  except FileNotFoundError:
    raise config_lib.ConfigError(f'{path} is no run directory: it has no '
                                 f'{_CONFIG}') from None
  except (OSError, ValueError) as error:
    raise config_lib.ConfigError(f'{file} is not readable: {error}') from None


class RunDirectory:
  """Held by one launch at a time; let go when it is closed or dies."""

  def __init__(self, path: str, lock):
    self.path = path
    self._lock = lock

  @classmethod
  def open(cls, path: str, config: config_lib.Config) -> 'RunDirectory':
    """Makes a run's directory, or goes on with one of the same run.

    Raises:
      ConfigError: the directory is in use, holds something else, or a run
        with another configuration. Nothing is changed then.
    """
    path = os.path.abspath(path)
    if os.path.exists(path) and not os.path.isdir(path):
      raise config_lib.ConfigError(f'{path} is not a directory')
    is_run = os.path.exists(os.path.join(path, _CONFIG))
    if not is_run and os.path.isdir(path) and set(
        os.listdir(path)) - {'lock'}:
      raise config_lib.ConfigError(
          f'{path} is neither empty nor a run; choose another --run_dir')
    try:
      os.makedirs(path, exist_ok=True)
      lock = open(os.path.join(path, 'lock'), 'w')
    except OSError as error:
      raise config_lib.ConfigError(f'{path} cannot be written: '
                                   f'{error.strerror}') from None
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      lock.close()
      raise config_lib.ConfigError(f'{path} is in use by another launch'
                                   ) from None
    try:
      if is_run:
        changes = config_io.difference(read_config(path), config)
        if changes:
          raise config_lib.ConfigError(
              f'{path} belongs to a run with another configuration '
              f'({"; ".join(changes)}); choose another --run_dir')
    except config_lib.ConfigError:
      lock.close()
      raise
    run = cls(path, lock)
    run._write(config)
    return run

  def _write(self, config: config_lib.Config) -> None:
    for name in _DIRECTORIES:
      os.makedirs(os.path.join(self.path, name), exist_ok=True)
    for name, content in ((_CONFIG, config_io.to_dict(config)),
                          ('versions.json', versions())):
      self.write_json(name, content)

  def write_json(self, name: str, content) -> None:
    """Writes a whole file or none."""
    path = os.path.join(self.path, name)
    with open(path + '.aside', 'w', encoding='utf-8') as f:
      json.dump(content, f, indent=1)
      f.write('\n')
    os.replace(path + '.aside', path)

  def close(self) -> None:
    self._lock.close()
