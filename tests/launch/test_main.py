"""The command `lpg`: its list of commands, help and refusals."""

import os
import shutil
import subprocess
import sys

import pytest

import lpg_distributed
from lpg_distributed.launch import main
from lpg_distributed.launch import process_environment
from tests.launch import command_testing

_COMMANDS = os.path.join(os.path.dirname(main.__file__), 'commands')


def lpg(*arguments, **variables):
  done = subprocess.run(
      [sys.executable, '-m', 'lpg_distributed', *arguments], text=True,
      capture_output=True, timeout=100, check=False,
      env={**command_testing.environment(), **variables})
  return done.returncode, done.stdout, done.stderr


def test_all_commands_are_listed():
  modules = {name.removesuffix('.py') for name in os.listdir(_COMMANDS)
             if name.endswith('.py')} - {'__init__'}
  assert {s.module for s in main.SUBCOMMANDS.values()} == modules
  assert len(main.SUBCOMMANDS) == len(modules)


@pytest.mark.parametrize('arguments', [(), ('--help',), ('-h',)])
def test_help_fits_a_screen(arguments):
  code, out, err = lpg(*arguments)
  assert (code, err) == (0, '')
  lines = out.splitlines()
  assert len(lines) <= 24 and max(map(len, lines)) <= 80
  for name in main.SUBCOMMANDS:
    assert f'  {name} ' in out or name.startswith('figure'), name


def test_version_is_printed():
  assert lpg('--version') == (
      0, f'lpg-distributed {lpg_distributed.__version__}\n', '')


@pytest.mark.parametrize('arguments, parts', [
    (('meta-tran',), ["'meta-tran'", 'did you mean meta-train?']),
    (('meta_test',), ["'meta_test'", 'did you mean meta-test?']),
    (('qqq', '--seed=1'), ["'qqq'", 'lpg --help']),
    (('--seed=1',), ["'--seed=1'", 'lpg --help']),
    (('meta-train', '--sed=3'), ["'sed'", '--help']),
    (('figure3', '--rool=a'), ["'rool'", '--help']),
    (('figure3', 'all_kinds'), ["'all_kinds' is no flag"])])
def test_refusals_are_one_line(arguments, parts):
  code, out, err = lpg(*arguments)
  assert (code, out) == (2, '')
  assert err.startswith('error: ') and err.count('\n') == 1
  for part in parts:
    assert part in err


@pytest.mark.pinned
@pytest.mark.parametrize('name', main.SUBCOMMANDS)
def test_help_of_each_command(name):
  """It shows how `lpg` starts the command, and imports no JAX."""
  done = subprocess.run(
      [sys.executable, '-c', 'import sys\nfrom lpg_distributed.launch import '
       f'main\nsys.argv = ["lpg", {name!r}, "--help"]\ntry:\n  main.main()\n'
       'finally:\n  assert "jax" not in sys.modules'], text=True,
      capture_output=True, timeout=100, check=False,
      env=command_testing.environment())
  assert (done.returncode, done.stderr) == (0, '')
  assert f'lpg {name} ' in done.stdout and '\nFlags:\n' in done.stdout


def test_modules_of_commands_hide_none_of_the_standard_library():
  for directory in (_COMMANDS, os.path.dirname(main.__file__)):
    names = {name.removesuffix('.py') for name in os.listdir(directory)}
    assert not names & set(sys.stdlib_module_names)


def test_the_script_of_a_checkout_starts_lpg(tmp_path):
  """It finds its Python beside it and the packages above it."""
  root = process_environment.root()
  bin_directory = tmp_path / 'checkout' / '.venv' / 'bin'
  bin_directory.mkdir(parents=True)
  shutil.copy(os.path.join(root, 'launch', 'lpg.sh'), bin_directory / 'lpg')
  python = bin_directory / 'python'
  python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
  python.chmod(0o755)
  (tmp_path / 'checkout' / 'lpg_distributed').symlink_to(
      os.path.join(root, 'lpg_distributed'))
  done = subprocess.run([bin_directory / 'lpg', '--version'], text=True,
                        capture_output=True, timeout=100, check=True,
                        cwd=tmp_path)
  assert lpg_distributed.__version__ in done.stdout
