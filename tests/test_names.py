"""A class name stands for one thing, and functions bear the field's names."""

import ast
import collections
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('lpg_distributed', 'envs', 'launch', 'benchmarks')
# Words for which the field has its own: init, reset, simulate, log ...
PRIVATE_WORDS = {'bear', 'born', 'live', 'lives', 'lived', 'say', 'seen',
                 'tend'}


def _definitions(*kinds):
  """Yields (file, definition), without links such as lpg_distributed/envs."""
  for package in PACKAGES:
    for path in sorted((ROOT / package).rglob('*.py')):
      for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, kinds):
          yield path.relative_to(ROOT), node


def test_no_class_name_stands_for_two_things():
  places = collections.defaultdict(list)
  for path, node in _definitions(ast.ClassDef):
    places[node.name.lstrip('_')].append(f'{path}:{node.lineno}')
  assert len(places) > 200
  assert {name: found for name, found in places.items()
          if len(found) > 1} == {}


def test_functions_have_no_private_words():
  functions = list(_definitions(ast.FunctionDef, ast.AsyncFunctionDef))
  assert len(functions) > 1000
  assert [f'{path}:{node.lineno} {node.name}' for path, node in functions
          if PRIVATE_WORDS & set(node.name.strip('_').split('_'))] == []
