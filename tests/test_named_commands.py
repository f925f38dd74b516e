"""What pages name within a sentence exists, and their Python fits.

`test_documents` checks the commands of blocks. Here are the commands between
backticks, and the calls of Python in pages, examples and notebooks.
"""

import ast
import functools
import inspect
import json
import pathlib
import re

import pytest

import lpg_distributed as lpg
from lpg_distributed.launch import main
from tests import test_documents

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PROGRAMS = ('docker', 'jupyter', 'kubectl', 'lpg', 'make', 'pip', 'python')
_ALLOWED = {'docker': ('exec', 'logs', 'pull', 'run', 'stop'),
            'jupyter': ('execute', 'lab'),
            'kubectl': ('apply', 'delete', 'describe', 'get', 'logs'),
            'pip': ('check', 'install', 'wheel')}


def _named(text):
  """Commands between backticks, without those of blocks."""
  prose = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
  return [' '.join(command.split()) for command in re.findall(
      rf'`((?:{"|".join(_PROGRAMS)})\s[^`]+)`', prose)]


_COMMANDS = sorted({command for path in test_documents._DOCUMENTS
                    for command in _named(path.read_text(encoding='utf-8'))})


def test_commands_are_found():
  assert _named('A `lpg\nx` and `lpg`.\n```sh\n`lpg y`\n```\n') == ['lpg x']
  assert len(_COMMANDS) > 50


@functools.lru_cache(maxsize=None)
def _flags(forks, name):
  """Names of the flags of `lpg NAME`."""
  module = main.SUBCOMMANDS[name].module
  done = forks.run_code(f'''
import importlib
from absl import flags
module = importlib.import_module('lpg_distributed.launch.commands.{module}')
print(*getattr(module, 'FLAGS', flags.FLAGS))''')
  assert done.returncode == 0, done.stderr
  return done.stdout.split()


@pytest.mark.parametrize('command', _COMMANDS)
def test_named_commands_exist(forks, command):
  program, *words = command.replace('[', '').replace(']', '').split()
  flags = [word.removeprefix('--').partition('=')[0] for word in words
           if word.startswith('--')]
  if program == 'lpg':
    assert words[0] in (*main.SUBCOMMANDS, '--help'), words[0]
    if words[0] in main.SUBCOMMANDS and flags:
      assert set(flags) <= set(_flags(forks, words[0]))
  elif program == 'make':
    makefile = (_ROOT / 'Makefile').read_text(encoding='utf-8')
    assert re.search(rf'^{words[0]}:', makefile, re.MULTILINE)
  elif program == 'python':
    assert words[0] == '-m'
    if words[1] in ('pytest', 'launch.NAME'):
      return
    source = _ROOT / (words[1].replace('.', '/') + '.py')
    text = source.read_text(encoding='utf-8')
    text += (_ROOT / 'benchmarks' / 'arguments.py').read_text(encoding='utf-8')
    assert all(re.search(rf'\b{flag}\b', text) for flag in flags)
  else:
    assert words[0] in _ALLOWED[program]
    if program == 'jupyter':
      assert (_ROOT / words[-1]).exists()


def _sources():
  """(name, Python) of pages, examples and notebooks."""
  for path in test_documents._DOCUMENTS:
    for i, code in enumerate(test_documents._blocks(path, 'python')):
      yield f'{path.relative_to(_ROOT)}-{i}', code
  for path in sorted(_ROOT.glob('examples/*.py')):
    yield path.name, path.read_text(encoding='utf-8')
  for path in sorted(_ROOT.glob('docs/notebooks/*.ipynb')):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    yield path.name, '\n'.join(''.join(cell['source']) for cell in cells
                               if cell['cell_type'] == 'code')


@pytest.mark.parametrize('code', [
    pytest.param(code, id=name) for name, code in _sources()])
def test_calls_fit_the_public_interface(code):
  for node in ast.walk(ast.parse(code)):
    if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        and node.value.id == 'lpg'):
      assert node.attr in lpg.__all__, node.attr
    if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == 'lpg'):
      positional = [arg for arg in node.args
                    if not isinstance(arg, ast.Starred)]
      keywords = [k.arg for k in node.keywords if k.arg]
      inspect.signature(getattr(lpg, node.func.attr)).bind_partial(
          *positional, **dict.fromkeys(keywords))


@pytest.mark.parametrize('path', test_documents._DOCUMENTS,
                         ids=lambda path: str(path.relative_to(_ROOT)))
def test_commands_stand_in_blocks_that_are_checked(path):
  """In blocks marked `sh`; an unmarked one shows what a program prints."""
  text = path.read_text(encoding='utf-8')
  for block in re.findall(r'^ *```(?:text)?\n(.*?)^ *```', text,
                          re.DOTALL | re.MULTILINE):
    for line in block.splitlines():
      assert not re.match(r'\s*\$?\s*(lpg [a-z]|make [a-z]|python -m)', line)
