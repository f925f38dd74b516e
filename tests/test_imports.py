"""Imports point one way, change nothing, and files stay small and general."""

import ast
import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Every part imports only from parts that stand before it, and from itself.
ORDER = (
    'allocation', 'errors', 'files', 'former_names', 'global_settings',
    'light_imports', 'processors', 'program_version',
    'envs', 'types', 'fields',
    'core.update_rules.registry', 'config', 'config_io', 'presets', 'core',
    'store', 'figures', 'meta_testing', 'nodes', 'local_loop', 'analysis',
    'programs', 'atari_program', 'api', 'policies',
    'launch.process_environment', 'launch.stopping', 'launch.streams',
    'launch.command', 'launch.agent_flags', 'launch.config_flags',
    'launch.experiment_flags', 'launch.progress', 'launch.local',
    'launch.cluster', 'launch.commands', 'launch.other_names', 'launch.main',
    '__main__')
# Parts that an accelerator's process imports, and must need no service.
PURE = ('allocation', 'errors', 'files', 'former_names', 'light_imports',
        'envs', 'types', 'fields', 'config', 'config_io', 'presets', 'core')
# What a core that runs on accelerators must never need.
SERVICES = ('launchpad', 'reverb', 'tensorflow', 'courier', 'tensorboardX',
            'rich', 'matplotlib')


def _tracked():
  """Files of the repository, those about to be added as well."""
  listed = subprocess.run(
      ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
      cwd=ROOT, capture_output=True, text=True, check=False)
  if listed.returncode == 0:
    names = listed.stdout.splitlines()
  else:  # Not a checkout, for example an archive of one.
    names = [os.path.relpath(os.path.join(directory, name), ROOT)
             for package in ('envs', 'launch', 'lpg_distributed', 'tests')
             for directory, _, files in os.walk(os.path.join(ROOT, package))
             for name in files if not name.endswith('.pyc')]
  return sorted(n for n in names if os.path.isfile(os.path.join(ROOT, n)))


FILES = _tracked()
MODULES = [n for n in FILES if n.endswith('.py')
           and n.split('/')[0] in ('envs', 'lpg_distributed', 'launch')]


def _read(name):
  with open(os.path.join(ROOT, name), encoding='utf-8') as f:
    return f.read()


def imports_of(name):
  """Full names of what a file imports, wherever in it."""
  for node in ast.walk(ast.parse(_read(name))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{name} has a relative import'
      for alias in node.names:
        assert alias.name != '*', f'{name} has `import *`'
        yield f'{node.module}.{alias.name}'


def _within(imported, *packages):
  return any((imported + '.').startswith(p + '.') for p in packages)


def _module(name):
  """lpg_distributed.core.bandit, of lpg_distributed/core/bandit.py."""
  module = name.removesuffix('.py').removesuffix('/__init__')
  if not module.startswith('lpg_distributed'):
    module = f'lpg_distributed/{module}'
  return module.replace('/', '.')


def _part(module):
  """The place in ORDER of a module or of a name in it; None: of no part."""
  name = module.removeprefix('lpg_distributed.')
  return next((i for i, part in enumerate(ORDER) if _within(name, part)), None)


def _own(name):
  """What a file imports of this project."""
  return [i for i in imports_of(name) if _within(
      i, 'envs', 'launch', 'lpg_distributed', 'tests', 'benchmarks')]


@pytest.mark.parametrize('name', MODULES)
def test_imports_point_one_way(name):
  module = _module(name)
  roots = ('lpg_distributed', 'lpg_distributed.launch')
  if module in roots:
    assert not _own(name)
    return
  assert _part(module) is not None, f'{name} has no place in ORDER'
  for imported in _own(name):
    assert imported.startswith('lpg_distributed.') or imported in roots, (
        f'{name} imports {imported}; allowed: lpg_distributed.*')
    part = _part(imported)
    assert part is None or part <= _part(module), (
        f'{name} imports {imported}, which stands after it in ORDER')


def test_no_two_files_import_each_other():
  """Neither directly nor through others."""
  names = {_module(name): name for name in MODULES}
  graph = {module: {part for i in _own(name)
                    for part in (i, i.rpartition('.')[0]) if part in names}
           for module, name in names.items()}
  done, path = set(), []

  def visit(module):
    assert module not in path, ' -> '.join([*path[path.index(module):], module])
    if module in done:
      return
    path.append(module)
    for imported in sorted(graph[module] - {module}):
      visit(imported)
    done.add(path.pop())

  for module in sorted(graph):
    visit(module)


@pytest.mark.parametrize('name', [
    n for n in MODULES if _within(_module(n), *(f'lpg_distributed.{part}'
                                                for part in PURE))])
def test_core_and_environments_need_no_services(name):
  assert not [i for i in imports_of(name) if _within(i, *SERVICES)]


def test_the_rules_above_hold_something():
  """They would pass if no file were found or no import seen."""
  assert len([n for n in MODULES if '/core/' in n]) > 8
  assert len([n for n in MODULES if '/nodes/' in n]) > 8
  assert 'lpg_distributed.core.lifetime' in imports_of(
      'lpg_distributed/nodes/lifetime_worker.py')
  assert _within('launchpad', *SERVICES) and not _within('rich2', *SERVICES)


def run_python(code):
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True,
                          capture_output=True, timeout=200, check=False,
                          env={**os.environ, 'PYTHONPATH': ROOT})
  assert result.returncode == 0, result.stderr
  return result.stdout


IMPORT_ALL = '''
import importlib, os, sys, threading
before = {{k: v for k, v in os.environ.items()}}
signals = threading.active_count()
for name in {names}:
  importlib.import_module(name)
from absl import flags
from jax._src import xla_bridge
assert not flags.FLAGS.is_parsed(), 'flags were parsed'
assert not xla_bridge.backends_are_initialized(), 'a device was touched'
assert threading.active_count() == signals, 'a thread was started'
changed = [k for k, v in before.items() if os.environ.get(k) != v]
assert not changed, changed
print(sorted({{'launchpad', 'reverb', 'courier', 'tensorflow'}}
             & set(sys.modules)))
'''


def test_imports_touch_nothing():
  """No device, flag, thread or variable; and no service without need."""
  names = [_module(n) for n in MODULES if not n.startswith('launch/')
           and n not in ('lpg_distributed/programs.py',
                         'lpg_distributed/atari_program.py')]
  assert run_python(IMPORT_ALL.format(names=names)).strip() == '[]'


@pytest.mark.parametrize('name', ['lpg_distributed.config_io',
                                  'lpg_distributed.presets',
                                  'lpg_distributed.store.run_directory',
                                  'launch.command'])
def test_configurations_need_no_jax(name):
  """Refusals and help come at once, without waiting for imports."""
  assert run_python(f'import sys, {name}; print("jax" in sys.modules)'
                    ) == 'False\n'


@pytest.mark.parametrize('name', [n for n in FILES if n.endswith('.py')])
def test_files_are_small(name):
  limit = 450 if name.startswith('tests/') else 400
  assert len(_read(name).splitlines()) <= limit


def _num_lines(function):
  """Number of lines of a function, without its docstring."""
  lines = function.end_lineno - function.lineno + 1
  if ast.get_docstring(function, clean=False) is not None:
    first = function.body[0]
    lines -= first.end_lineno - first.lineno + 1
  return lines


def test_the_lines_of_a_function_are_counted_without_its_docstring():
  source = 'def f():\n  """One.\n\n  Two.\n  """\n  x = 1\n  return x\n'
  assert _num_lines(ast.parse(source).body[0]) == 3
  assert _num_lines(ast.parse('def f(): pass').body[0]) == 1


@pytest.mark.parametrize('name', [n for n in FILES if n.endswith('.py')])
def test_functions_are_small(name):
  functions = [node for node in ast.walk(ast.parse(_read(name)))
               if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
  assert not {f.name: _num_lines(f) for f in functions if _num_lines(f) > 60}


@pytest.mark.parametrize('name', MODULES + [
    n for n in FILES if n.startswith('benchmarks/') and n.endswith('.py')])
def test_private_names_stay_in_their_file(name):
  is_private = lambda n: n.startswith('_') and not n.startswith('__')
  assert not [n for n in _own(name) if is_private(n.rpartition('.')[2])]
  tree = ast.parse(_read(name))
  modules = {alias.asname or alias.name for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom) and _within(
                 node.module, 'lpg_distributed', 'benchmarks')
             for alias in node.names}
  assert not [ast.unparse(node) for node in ast.walk(tree)
              if isinstance(node, ast.Attribute)
              and isinstance(node.value, ast.Name) and node.value.id in modules
              and is_private(node.attr)]


# The directories of users and machines, and what a test needs of them.
_MACHINE_PATH = re.compile(r'(?<![\w.}/:-])/(?:home|root|Users|work|mnt|data|'
                           r'scratch)/\w')
# Not `launch.local`, which is a package.
_HOST = re.compile(
    r'\b(?:[\w-]+\.)+(?:internal|(?<!launch\.)local|lan|corp)\b')
_TEXT = ('.py', '.md', '.sh', '.toml', '.yml', '.yaml', '.json', '.txt',
         '.cfg', '.csv')


@pytest.mark.parametrize('name', [
    n for n in FILES if n.endswith(_TEXT) or '.' not in n.rsplit('/', 1)[-1]
    and '/checkpoints/' not in n])  # Parts of checkpoints are binary.
def test_no_file_knows_a_machine(name):
  text = _read(name)
  assert ROOT not in text
  assert not _MACHINE_PATH.findall(text)
  assert not _HOST.findall(text)
