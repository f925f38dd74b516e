"""The Dockerfiles: linted, and true to the tree; no engine is needed."""

import fnmatch
import json
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FILES = sorted((_ROOT / 'docker').glob('*ockerfile'))
_HADOLINT = pathlib.Path(sys.executable).with_name('hadolint')

each_file = pytest.mark.parametrize('path', _FILES, ids=lambda p: p.name)


def _instructions(path):
  """Pairs of an instruction's name and its arguments."""
  lines = [line for line in path.read_text(encoding='utf-8').splitlines()
           if line.strip() and not line.lstrip().startswith('#')]
  for line in re.sub(r'\\\n', ' ', '\n'.join(lines)).splitlines():
    name, _, arguments = line.strip().partition(' ')
    yield name, arguments.strip()


def _all(path, name):
  return [arguments for n, arguments in _instructions(path) if n == name]


def _commands(path):
  """The lists that ENTRYPOINT with CMD, and HEALTHCHECK, start."""
  entry, = _all(path, 'ENTRYPOINT')
  default, = _all(path, 'CMD')
  health, = _all(path, 'HEALTHCHECK')
  return [json.loads(entry) + json.loads(default),
          json.loads(health.partition('CMD')[2])]


def test_all_are_found():
  assert [p.name for p in _FILES] == ['Dockerfile', 'gpu.Dockerfile',
                                      'tpu.Dockerfile']


@each_file
def test_hadolint_has_nothing_to_say(path):
  if not _HADOLINT.exists():
    pytest.fail('hadolint is missing; requirements.txt has it')
  done = subprocess.run([_HADOLINT, '--no-color', path], capture_output=True,
                        text=True, timeout=60, check=False)
  assert (done.returncode, done.stdout) == (0, '')


@each_file
def test_base_has_a_tag_and_the_user_is_not_root(path):
  base, = _all(path, 'FROM')
  assert re.fullmatch(r'python:3\.10\.\d+-slim-[a-z]+', base)
  assert _all(path, 'USER')[-1] not in ('0', 'root')
  names = [name for name, _ in _instructions(path)]
  assert names.index('USER') > max(
      i for i, name in enumerate(names) if name == 'RUN')


def test_all_have_the_same_base_and_steps():
  """They differ in packages, variables and how the program is started."""
  bases = {_all(path, 'FROM')[0] for path in _FILES}
  assert len(bases) == 1
  steps = [[pair for pair in _instructions(path)
            if pair[0] not in ('ENV', 'ENTRYPOINT')
            and 'pip install' not in pair[1]] for path in _FILES]
  assert steps[0] == steps[1] == steps[2]


@each_file
def test_what_is_copied_exists_and_is_let_in(path):
  ignored = (_ROOT / '.dockerignore').read_text(encoding='utf-8').split()
  assert ignored[0] == '*'
  let_in = [line[1:] for line in ignored if line.startswith('!')]
  sources = [s for arguments in _all(path, 'COPY')
             for s in arguments.split()[:-1]]
  assert sources
  for source in sources:
    assert (_ROOT / source).exists(), source
    assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source
  assert sorted(sources) == sorted(let_in)


@each_file
def test_run_lines_are_shell(path):
  lines = _all(path, 'RUN')
  assert lines
  for line in lines:
    subprocess.run(['sh', '-n', '-c', line], check=True, timeout=20)


@each_file
def test_packages_have_a_version(path):
  for line in _all(path, 'RUN'):
    if 'pip install' in line:
      words = line.partition('pip install')[2].partition('&&')[0].split()
      words = [w for w in words if not w.startswith('-')]
      assert words[0] == 'requirements.txt'
      assert all('==' in word for word in words[1:]), words


@each_file
def test_commands_name_modules_and_flags_that_exist(forks, path):
  for program, option, module, name, *flags in _commands(path):
    assert (program, option) == ('python', '-m')
    assert module == 'lpg_distributed'
    done = forks.run_module(module, name, '--help')
    assert done.returncode == 0, done.stderr
    known = re.findall(r'--(?:\[no\])?(\w+)', done.stdout)
    for flag in flags:
      assert re.match(r'--(\w+)', flag).group(1) in known, flag


@each_file
def test_default_command_is_accepted(forks, path, tmp_path):
  """Up to the first thing that is wrong, made so by a flag that comes last."""
  command = _commands(path)[0]
  assert command[:2] == ['python', '-m']
  done = forks.run_module(*command[2:], '--meta_steps=0', cwd=tmp_path)
  assert done.returncode == 2
  assert 'run.meta_steps is 0' in done.stderr
  assert not list(tmp_path.iterdir())


@each_file
def test_health_is_asked_of_the_run_that_is_started(path):
  run_dirs = {flag for command in _commands(path) for flag in command
              if flag.startswith('--run_dir=')}
  assert len(run_dirs) == 1
  assert run_dirs.pop().startswith('--run_dir=runs/')
  volume, = _all(path, 'VOLUME')
  assert json.loads(volume) == [_all(path, 'WORKDIR')[-1] + '/runs']
