"""The directory of a run: its configuration, versions, lock and files.

It contains config.json, versions.json, metrics/, checkpoints/, eta/, figures/,
logs/; and initial_rule.npz, a copy of the rule that the run starts from, if
`run.initial_rule` is set.
"""

import json
import os

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed.store import own_directory
from lpg_distributed.store import published
from lpg_distributed.store import run_versions

_DIRECTORIES = ('metrics', 'checkpoints', 'eta', 'figures', 'logs')
# Addresses and process ids of the nodes of the running launch.
LAUNCH_FILE = 'launch.json'
_CONFIG = 'config.json'
_MOST_CHANGES = 6  # number of fields named when configurations differ


def initial_rule_path(run_dir: str) -> str:
  """Returns the path of the copy of the run's initial rule."""
  return os.path.join(run_dir, 'initial_rule.npz')


def read_config(path: str) -> config_lib.Config:
  """Reads the configuration of the run at `path`.

  Raises:
    ConfigError: `path` is no run directory, or its configuration is damaged.
  """
  file = os.path.join(path, _CONFIG)
  try:
    return config_io.from_dict(files.read_object(file))
  except FileNotFoundError:
    raise config_lib.ConfigError(f'{path} is no run directory: it has no '
                                 f'{_CONFIG}') from None
  except (OSError, ValueError) as error:
    raise config_lib.ConfigError(f'{file} is not readable: {error}') from None


def _cannot_write(path: str, error: OSError) -> config_lib.ConfigError:
  return config_lib.ConfigError(
      f'{path} cannot be written: {error.strerror}; choose another --run_dir')


def is_run(path: str) -> bool:
  """Returns whether `path` holds a run; False if it is empty or missing.

  Raises:
    ConfigError: it holds something else.
  """
  try:
    names = os.listdir(path)
  except FileNotFoundError:
    return False
  except OSError as error:
    raise config_lib.ConfigError(
        f'{path} is no directory to run in: {error.strerror}') from None
  # Files that a launch leaves if it is killed while it starts.
  others = [n for n in names if n != 'lock' and not n.endswith('.aside')]
  if others and _CONFIG not in names:
    raise config_lib.ConfigError(
        f'{path} is neither empty nor a run; choose another --run_dir')
  return _CONFIG in names


def _lock(path: str):
  """Locks the directory, after making it if it does not exist."""
  try:
    own_directory.make(path)
    own_directory.require_own(path)
    return own_directory.hold(path)
  except own_directory.DirectoryInUseError as error:
    raise config_lib.ConfigError(
        f'{error}; wait for it, stop it, or choose another --run_dir'
        ) from None
  except own_directory.DirectoryError as error:
    raise config_lib.ConfigError(str(error)) from None
  except OSError as error:
    raise _cannot_write(path, error) from None


def _check_same(path: str, config: config_lib.Config) -> None:
  """Raises ConfigError if the existing run has another configuration."""
  changes = config_io.difference(read_config(path), config)
  if len(changes) > _MOST_CHANGES:
    changes[_MOST_CHANGES:] = [f'and {len(changes) - _MOST_CHANGES} more']
  if changes:
    raise config_lib.ConfigError(
        f'{path} belongs to a run with another configuration '
        f'({"; ".join(changes)}); choose another --run_dir')


class RunDirectory:
  """A locked run directory; released by `close` or the process's end."""

  def __init__(self, path: str, lock, computes: bool = True):
    self.path = path
    self._lock = lock
    self._computes = computes

  @classmethod
  def open(cls, path: str, config: config_lib.Config,
           computes: bool = True) -> 'RunDirectory':
    """Makes and locks a run directory, or locks that of the same run.

    Args:
      path: the directory.
      config: the run's configuration.
      computes: whether this host computes, so that its versions are recorded.

    Raises:
      ConfigError: the directory is in use, or holds something else or a run
        with another configuration. Nothing is changed then.
    """
    path = os.path.abspath(path)
    is_run(path)  # Raises before a lock is made in another directory.
    run = cls(path, _lock(path), computes)
    try:
      if is_run(path):  # The lock excludes other launches from here on.
        _check_same(path, config)
      else:
        run.update(config)
    except errors.UserError:
      run.close()
      raise
    return run

  def update(self, config: config_lib.Config) -> None:
    """Writes the files of this launch; makes missing directories.

    The initial rule is copied, so a relative path is resolved once, whatever
    host or directory a node starts in. A run with a checkpoint no longer needs
    it.

    Raises:
      ConfigError: the directory cannot be written.
      PublishedError, EtaFileError: `run.initial_rule` does not exist.
    """
    rule = self._copy_initial_rule(config.run.initial_rule)
    try:
      # Written first, since it marks the directory as a run.
      self.write_json(_CONFIG, config_io.to_dict(config))
      if self._computes:
        run_versions.record(self.path, config)
      for name in _DIRECTORIES:
        own_directory.make(os.path.join(self.path, name))
      if rule:
        files.write_whole(initial_rule_path(self.path), rule)
    except OSError as error:
      raise _cannot_write(self.path, error) from None

  def _copy_initial_rule(self, name: str) -> bytes:
    """Returns the file of the initial rule; empty: nothing to copy."""
    checkpoints = os.path.join(self.path, 'checkpoints')
    if (not name or os.path.exists(initial_rule_path(self.path))
        or os.path.isdir(checkpoints) and os.listdir(checkpoints)):
      return b''
    from lpg_distributed.store import eta_file  # Imports JAX.
    file = eta_file.load(published.resolve(name))
    return eta_file.pack(file.eta, file.rule, **file.info)

  def write_json(self, name: str, content) -> None:
    """Writes a JSON file atomically."""
    files.write_whole(os.path.join(self.path, name),
                      (json.dumps(content, indent=1) + '\n').encode())

  def close(self) -> None:
    self._lock.close()
