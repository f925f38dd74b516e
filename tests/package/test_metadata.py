"""pyproject.toml names what the code imports, in the versions of the lock."""

import importlib.util
import re
import sys

from packaging import requirements
from packaging import utils
import pytest
import tomli

from lpg_distributed.launch import command
from tests import test_imports

# Where a package's module has another name.
_MODULES = {'absl-py': 'absl', 'ale-py': 'ale_py', 'dm-env': 'dm_env',
            'dm-haiku': 'haiku', 'dm-launchpad-nightly': 'launchpad',
            'dm-reverb': 'reverb', 'pyyaml': 'yaml',
            'tensorboardx': 'tensorboardX', 'tensorflow-cpu': 'tensorflow'}
# What the packages above bring: Courier and portpicker with Launchpad, Pillow
# with Matplotlib, and XManager as BUILD.md has it.
_BROUGHT = {'courier', 'portpicker', 'cloudpickle', 'PIL', 'xmanager'}


def _read(name):
  with open(f'{test_imports.ROOT}/{name}', encoding='utf-8') as f:
    return f.read()


_PROJECT = tomli.loads(_read('pyproject.toml'))['project']
_EXTRAS = _PROJECT['optional-dependencies']


def _names(texts):
  return {utils.canonicalize_name(requirements.Requirement(text).name)
          for text in texts}


def _modules(texts):
  return {_MODULES.get(name, name) for name in _names(texts)}


def _imported(names):
  """Modules at the top that these files import, of others."""
  found = {imported.split('.')[0] for name in names
           for imported in test_imports.imports_of(name)}
  return found - set(sys.stdlib_module_names) - {
      'lpg_distributed', 'envs', 'launch', 'tomllib', '__future__'}


def test_all_imports_are_declared():
  extras = [text for name, texts in _EXTRAS.items() if name != 'dev'
            for text in texts]
  declared = _modules([*_PROJECT['dependencies'], *extras])
  assert _imported(test_imports.MODULES) <= declared | _BROUGHT


def test_the_light_part_imports_what_it_depends_on():
  needed = _modules(_PROJECT['dependencies'])
  # jax.export needs it, and does not ask for it.
  assert needed - _imported(test_imports.MODULES) == {'flatbuffers'}


@pytest.mark.parametrize('text', _EXTRAS['launchpad'])
def test_launchpad_has_the_versions_of_the_lock(text):
  needed = requirements.Requirement(text)
  assert str(needed.marker) == 'python_version < "3.11"'
  pattern = rf'(?m)^{re.escape(needed.name)}{re.escape(str(needed.specifier))}$'
  assert re.search(pattern, _read('requirements.txt'))


def test_messages_name_extras_that_exist(monkeypatch):
  """And the place to install from: no registry has this package."""
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(command.UsageError) as error:
    command.require_launchpad('this')
  place, extra = re.search(r'pip install "(.*)\[(.*)\]"',
                           str(error.value)).groups()
  assert place == '.' and 'in a checkout' in str(error.value)
  assert extra in _EXTRAS


def test_extras_are_in_a_lock():
  locks = _names(line for name in ('requirements.txt',
                                   'tests/requirements-current.txt')
                 for line in _read(name).splitlines()
                 if line and not line.startswith('#'))
  assert _names(text for texts in _EXTRAS.values() for text in texts) <= locks
  assert _names(_PROJECT['dependencies']) <= locks
