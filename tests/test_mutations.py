"""The list of mutations fits the code; `tests/mutate.py` applies them."""

import pathlib
import re
import shlex

import pytest

from tests import mutate

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_list_is_whole():
  text = (ROOT / 'tests' / 'mutations.md').read_text(encoding='utf-8')
  found = mutate.read()
  assert [m.number for m in found] == list(range(1, len(found) + 1))
  assert len(found) == len(re.findall('^## ', text, re.MULTILINE)) >= 40


@pytest.mark.parametrize('mutation', mutate.read(), ids=lambda m: m.title)
def test_each_still_applies(mutation):
  """Whoever changes the line changes its mutation too, and runs it."""
  assert mutation.old != mutation.new
  assert (ROOT / mutation.file).read_text(encoding='utf-8').count(
      mutation.old) == 1
  path, *selection = shlex.split(mutation.tests)
  tests = re.findall(r'def (test_\w+)',
                     (ROOT / path).read_text(encoding='utf-8'))
  assert tests
  if selection:
    (option, words) = selection
    assert option == '-k'
    for word in words.split(' or '):
      assert any(word in name for name in tests), word


def test_a_change_that_does_not_apply_is_an_error(tmp_path):
  (tmp_path / 'a').write_text('x x')
  mutation = mutate.Mutation(1, 'title', 'a', 'tests', 'x', 'y')
  with pytest.raises(ValueError, match='2 times'):
    mutation.apply(tmp_path)
