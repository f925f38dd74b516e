"""The commit that the program was taken from, where git can tell it."""

import os
import re
import shutil
import subprocess

import pytest

import lpg_distributed
from lpg_distributed import program_version

pytestmark = pytest.mark.skipif(not shutil.which('git'), reason='needs git')
_HASH = re.compile('[0-9a-f]{40}')


@pytest.fixture(autouse=True)
def _no_cache():
  program_version.commit.cache_clear()
  yield
  program_version.commit.cache_clear()


@pytest.fixture
def tree(tmp_path, monkeypatch):
  """A checkout with one commit, as the program's own."""
  monkeypatch.setenv('HOME', str(tmp_path))
  package = tmp_path / 'tree' / 'lpg_distributed'
  package.mkdir(parents=True)
  (package / 'a.py').write_text('')
  for arguments in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'Begin'],
                    ['tag', 'v1']):
    subprocess.run(
        ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *arguments],
        cwd=package.parent, check=True)
  place(monkeypatch, package)
  return package


def place(monkeypatch, package):
  monkeypatch.setattr(program_version, '_package', lambda: str(package))
  program_version.commit.cache_clear()


def test_the_commit_of_a_checkout(tree, monkeypatch):
  monkeypatch.setenv('GIT_DIR', '/nowhere')
  clean = program_version.commit()
  assert _HASH.fullmatch(clean)
  assert program_version.version() == {
      'lpg-distributed': lpg_distributed.__version__, 'commit': clean}
  (tree / 'new.py').write_text('')  # Not a part of the program yet.
  (tree / 'a.py').write_text('b = 1\n')
  assert program_version.commit() == clean  # Asked once in a process.
  program_version.commit.cache_clear()
  assert program_version.commit() == f'{clean}, changed'


def test_a_copy_knows_its_commit(tree, tmp_path, monkeypatch):
  commit = program_version.commit()
  copy = tree.parent / 'runs' / 'code' / 'lpg_distributed'
  shutil.copytree(tree, copy)
  program_version.keep_commit(str(copy))
  place(monkeypatch, copy)
  assert program_version.commit() == commit


def test_a_package_in_a_checkout_of_something_else_has_none(tree, monkeypatch):
  installed = tree.parent / '.venv' / 'site-packages' / 'lpg_distributed'
  shutil.copytree(tree, installed)
  place(monkeypatch, installed)
  assert program_version.version() == {
      'lpg-distributed': lpg_distributed.__version__}
  program_version.keep_commit(str(installed))
  assert not (installed / 'commit.txt').exists()


@pytest.mark.parametrize('script', [
    None, '#!/bin/sh\nexec sleep 60\n', '#!/bin/sh\nexit 128\n'])
def test_without_an_answer_of_git_there_is_none(
    script, tree, tmp_path, monkeypatch):
  """Git may not be installed, be slow, or refuse."""
  monkeypatch.setattr(program_version, '_PATIENCE_S', 0.2)
  programs = tmp_path / 'bin'
  programs.mkdir()
  monkeypatch.setenv('PATH', f'{programs}:/bin:/usr/bin' if script
                     else str(programs))
  if script:
    (programs / 'git').write_text(script)
    (programs / 'git').chmod(0o755)
  assert program_version.commit() == ''


@pytest.mark.skipif(os.geteuid() != 0, reason='only root may give files away')
def test_a_checkout_of_another_user_has_none(tree):
  subprocess.run(['chown', '-R', '4242', str(tree.parent)], check=True)
  assert program_version.commit() == ''
