"""Tables as documents show them."""

import pytest

from lpg_distributed.figures import markdown


def test_a_table_is_head_rule_and_rows():
  assert markdown.table(['kind', 'return'], (
      [name, text] for name, text in (('a', '1'), ('b', '-')))) == [
          '| kind | return |', '|---|---|', '| a | 1 |', '| b | - |']


def test_bars_within_cells_are_escaped():
  assert markdown.table(['of'], [['pi(a|s)']])[-1] == r'| pi(a\|s) |'


@pytest.mark.parametrize('row', [['a'], ['a', '1', '2']])
def test_a_row_of_another_length_is_refused(row):
  with pytest.raises(ValueError, match='the head 2'):
    markdown.table(['kind', 'return'], [row])
