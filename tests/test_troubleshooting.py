"""The page of messages explains messages that the program has."""

import ast
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PAGE = _ROOT / 'docs' / 'troubleshooting.md'
# Messages of others, or none.
_WITHOUT_MESSAGES = ('Exit codes', 'Memory', 'Results that look wrong')


def _parse(text):
  """From each message of a page to its fixed parts."""
  messages = {}
  for section in text.split('\n## ')[1:]:
    if not section.startswith(_WITHOUT_MESSAGES):
      for message in re.findall(r'^\| `([^`]+)` \|', section, re.MULTILINE):
        messages[message] = [part.strip() for part in
                             re.split(r'\(?\.\.\.\)?|; ', message)
                             if part.strip(' ,:')]
  return messages


def _strings_of_the_program():
  """All text in the source, with the fixed parts of formatted strings."""
  return [' '.join(node.value.split())
          for package in ('envs', 'launch', 'lpg_distributed')
          for path in (_ROOT / package).rglob('*.py')
          for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
          if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_messages_are_found():
  assert _parse('# T\n\n## A\n| `x ... is y (...); see z` | no |\n| b | `c` |\n'
                '\n## Exit codes\n| `d` | no |\n') == {
                    'x ... is y (...); see z': ['x', 'is y', 'see z']}


_MESSAGES = _parse(_PAGE.read_text(encoding='utf-8'))


@pytest.fixture(scope='module', name='strings')
def _strings():
  return _strings_of_the_program()


@pytest.mark.parametrize('message', _MESSAGES)
def test_explained_messages_are_those_of_the_program(message, strings):
  for part in _MESSAGES[message]:
    assert any(part in string for string in strings), part


def test_many_messages_are_explained():
  assert len(_MESSAGES) > 40
