"""Applies the changes of `tests/mutations.md` and looks which tests fail.

  python -m tests.mutate [NUMBER ...]

Each change is applied to a copy of the repository, and the tests that are
named with it are run there. Prints one line per change; the exit code is 1 if
one was not caught. Where a change is not caught, its tests lack something.
"""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LIST = _ROOT / 'tests' / 'mutations.md'
_SECTION = re.compile(
    r'^## (\d+)\. (.+?)\n\n`(.+?)`, caught by `(.+?)`:\n\n```diff\n(.+?)^```',
    re.MULTILINE | re.DOTALL)
_NOT_COPIED = shutil.ignore_patterns('.git', '.venv*', 'runs', '__pycache__',
                                     '.*_cache')
_LONGEST_S = 900
_FAILED = 1  # Exit code of pytest.


class Mutation(NamedTuple):
  """One change of one file."""
  number: int
  title: str
  file: str
  tests: str  # arguments of pytest
  old: str
  new: str

  def apply(self, root: pathlib.Path) -> None:
    """Changes the file; raises ValueError unless the old text is there once."""
    path = root / self.file
    text = path.read_text(encoding='utf-8')
    if (count := text.count(self.old)) != 1:
      raise ValueError(f'{self.number}. {self.title}: {self.file} has the text '
                       f'{count} times')
    path.write_text(text.replace(self.old, self.new), encoding='utf-8')


def read() -> list[Mutation]:
  """All of the list."""
  found = []
  for number, title, file, tests, diff in _SECTION.findall(
      _LIST.read_text(encoding='utf-8')):
    old, new = ('\n'.join(line[1:] for line in diff.splitlines()
                          if line[0] == sign) for sign in '-+')
    found.append(Mutation(int(number), title, file, tests, old, new))
  return found


def is_caught(mutation: Mutation) -> bool:
  """Whether a test fails that is named with the change."""
  with tempfile.TemporaryDirectory() as directory:
    copy = pathlib.Path(directory) / 'repository'
    shutil.copytree(_ROOT, copy, symlinks=True, ignore=_NOT_COPIED)
    mutation.apply(copy)
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider',
         *shlex.split(mutation.tests)], cwd=copy, timeout=_LONGEST_S,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  if result.returncode not in (0, _FAILED):
    raise RuntimeError(f'{mutation.tests}:\n{result.stdout[-2000:]}')
  return result.returncode == _FAILED


def main(numbers: list[str]) -> int:
  missed = 0
  for mutation in read():
    if numbers and str(mutation.number) not in numbers:
      continue
    caught = is_caught(mutation)
    missed += not caught
    print(f'{"caught" if caught else "NOT CAUGHT"}: {mutation.number}. '
          f'{mutation.title}', flush=True)
  return 1 if missed else 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
