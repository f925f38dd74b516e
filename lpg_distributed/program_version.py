"""Tells which version of this program runs: its number and its git commit.

Uses only the standard library.
"""

import functools
import os
import subprocess

import lpg_distributed

_COMMIT_FILE = 'commit.txt'
_PATIENCE_S = 5.  # for git, which is slow on some network file systems
# Hash of HEAD without a tag's name; a mark if a tracked file was changed.
_GIT = ('git', '--no-optional-locks', '-c', 'core.fsmonitor=false', 'describe',
        '--always', '--abbrev=40', '--exclude=*', '--dirty=, changed')


def _package() -> str:
  return os.path.dirname(os.path.abspath(lpg_distributed.__file__))


@functools.lru_cache(maxsize=None)
def commit() -> str:
  """Returns the commit that the program was taken from; '' if unknown.

  In a git checkout this is the hash of HEAD, and `, changed` if a tracked file
  differs from it. A copy that `keep_commit` has marked is of that commit. An
  installed package knows only its version.
  """
  package = _package()
  try:
    with open(os.path.join(package, _COMMIT_FILE), encoding='utf-8') as f:
      return f.readline(100).strip()
  except (OSError, ValueError):
    return _ask_git(os.path.dirname(package))


def _ask_git(root: str) -> str:
  """Returns what git says of a directory; '' if that is no checkout."""
  # A directory below a checkout may be a copy that git ignores.
  if not os.path.exists(os.path.join(root, '.git')):
    return ''
  environment = {name: value for name, value in os.environ.items()
                 if not name.startswith('GIT_')}
  try:
    done = subprocess.run(
        _GIT, cwd=root, env=environment, timeout=_PATIENCE_S, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL)
  except (OSError, subprocess.TimeoutExpired):
    return ''  # Git is not installed, or too slow.
  # Git refuses, for example, a checkout that belongs to another user.
  return ('' if done.returncode else
          done.stdout.decode('utf-8', 'replace').strip())


def keep_commit(package: str) -> None:
  """Marks a copy of the package, which has no git, with this commit."""
  if commit():
    with open(os.path.join(package, _COMMIT_FILE), 'w', encoding='utf-8') as f:
      f.write(commit() + '\n')


def version() -> dict[str, str]:
  """Returns the program's version and, if it is known, its commit."""
  return {'lpg-distributed': lpg_distributed.__version__,
          **({'commit': commit()} if commit() else {})}
