"""One table of several tables of `lpg mini`."""

import json

import numpy as np
import pytest

from lpg_distributed.analysis import mini_table
from lpg_distributed.analysis import stored
from tests.launch import command_testing

_CATCH = 'gymnax/Catch-bsuite'


def _write(directory, mean, rules=('lpg', 'a2c', 'random')):
  cell = lambda value: {
      'mean': value, 'standard_error': 0.1, 'returns': [value] * 3,
      'learning_rate': 0.02, 'at_edge': value == mean, 'env_steps': 1000}
  directory.mkdir()
  (directory / mini_table.TABLE).write_text(json.dumps(
      {_CATCH: {rule: cell(mean + i) for i, rule in enumerate(rules)}}))
  return str(directory)


def test_tables_share_the_columns_of_a2c_and_untrained(tmp_path, capsys):
  tables = [f'--table=one={_write(tmp_path / "1", 0.5)}',
            f'--table=two={_write(tmp_path / "2", 0.25, ("lpg",))}']
  results = tmp_path / 'mini.json'
  assert command_testing.call(
      'mini_table', [*tables, f'--results={results}']) == 0
  out = capsys.readouterr().out
  assert '| environment | steps | one | two | A2C | untrained |' in out
  # Student's t of three seeds is 4.30.
  assert ('| `Catch-bsuite` | 1,000 | 0.5 ± 0.43 (0.02*) | 0.25 ± 0.43 (0.02*) '
          '| 1.5 ± 0.43 (0.02) | 2.5 ± 0.43 (0.02) |') in out
  about, data = stored.load(str(results), mini_table.NAME)
  assert about['seeds'] == 3
  np.testing.assert_allclose(data[_CATCH]['rules']['A2C']['mean'], 1.5)
  assert (tmp_path / 'mini.svg').exists()


def test_bad_tables_are_refused(tmp_path):
  path = _write(tmp_path / '1', 0.5)
  with pytest.raises(stored.ResultsError, match='allowed: LABEL=DIRECTORY'):
    mini_table.compute([path])
  with pytest.raises(stored.ResultsError, match='is not a table'):
    mini_table.compute([f'a={tmp_path}'])
  for text in ('[1]', '3', 'null', '[["a", 1]]', '{"a": 3}',
               '{"a": {"lpg": 3}}', '{"a": {"lpg": {}}}', '{"a": {"x": {}}}'):
    (tmp_path / '1' / mini_table.TABLE).write_text(text)
    with pytest.raises(stored.ResultsError, match='is not a table'):
      mini_table.compute([f'a={path}'])


@pytest.mark.parametrize('data', ['{}', '{"a": 3}', '{"a": {"rules": [1]}}'])
def test_results_of_another_form_are_refused(data, tmp_path, capsys):
  path = tmp_path / 'mini.json'
  path.write_text('{"format": "lpg-results-1", "experiment": "mini_table", '
                  f'"about": {{}}, "data": {data}}}')
  assert command_testing.call('mini_table', [f'--results={path}']) == 2
  assert 'cannot be shown' in capsys.readouterr().err
