"""Rules against A2C on all kinds, by hand and from stored results."""

import pathlib

import pytest

from lpg_distributed.analysis import against_a2c
from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import stored
from lpg_distributed.envs import suite
from tests.launch import command_testing

_RESULTS = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'results'


def make(rules, by_kind, **settings):
  """Results; `by_kind`: kind to label to (final, whole) of one lifetime."""
  about = {'rules': rules, 'settings': {'updates': 0, 'seed': 0, **settings}}
  row = lambda end, whole: {'final': [end, end + 0.1],
                            'whole': [whole, whole + 0.1]}
  return about, {name: {'rules': {label: row(*values)
                                  for label, values in labels.items()}}
                 for name, labels in by_kind.items()}


def test_table_by_hand():
  one = make(
      {'LPG': {'published': 'rule_a'}, 'mine': {'run': 'x'},
       'untrained': {'untrained': True}, 'idle': {}},
      {'chain_long': {'LPG': (9., 0.), 'mine': (0., 5.), 'untrained': (0., 0.),
                      'idle': (9., 9.), 'A2C': (5., 5.)},
       'chain_short': {'LPG': (5., 9.), 'A2C': (5., 5.)},
       'random_small': {'LPG': (9., 9.)}})
  other = make({'LPG': {'published': 'rule_a'}, 'untrained': {}},
               {'tabular_dense': {'LPG': (0., 0.), 'A2C': (50., 50.)},
                'chain_short': {'LPG': (0., 0.), 'A2C': (50., 50.)}},
               updates=800, seed=3, trials=32)
  found = [column for some in (one, other)
           for column in against_a2c.compared(*some)]
  assert [column.head for column in found] == [
      '`rule_a`', 'mine', 'idle', '`rule_a`, 800 updates, seed 3, 32 trials']
  text = against_a2c.lines(found)
  for line in (
      '| environment | `rule_a` | mine | idle | '
      '`rule_a`, 800 updates, seed 3, 32 trials |',
      '| `chain_long` | + / - | - / = | + / + |  |',
      '| `chain_short` | = / + |  |  | - / - |',
      '| `tabular_dense` |  |  |  | - / - |', '| `random_small` |  |  |  |  |'):
    assert line in text
  assert len(text) == 2 * (2 + len(suite.ENVIRONMENTS) + 2) + 3
  assert text[2 + len(suite.ENVIRONMENTS) + 1] == (
      'Final returns, of 15 kinds: compared on 3; at least one rule is above '
      'A2C on 1, all rules that were compared are below A2C on 1.')


def test_differences_by_hand():
  """Two layouts; every rule gets 10 more on one of them."""
  final = {'LPG': [1.2, 11.4, 1.1], 'mine': [1., 10.9, 1.],
           'A2C': [1., 11., 1.]}
  about = {'rules': {'LPG': {}, 'mine': {}},
           'settings': {'updates': 0, 'seed': 0}}
  compared = lambda: against_a2c.compared(about, {'chain_long': {'rules': {
      label: {'final': values, 'whole': values}
      for label, values in final.items()}}})
  found = compared()
  assert [column.final['chain_long'] for column in found] == [0, 0]
  # 0.2, 0.4, 0.1: mean 0.2333, deviation 0.15275; Student's t of 2 is 4.3027.
  difference = found[0].difference['chain_long']
  assert difference['mean'] == pytest.approx(0.7 / 3.)
  assert difference['high'] - difference['mean'] == pytest.approx(
      4.3027 * 0.15275 / 3. ** 0.5, rel=1e-4)
  lines = against_a2c.lines(found)
  assert '| `chain_long` | 0.233 ± 0.38 = | -0.0333 ± 0.14 = |' in lines
  final['LPG'] = [1.3, 11.4, 1.35]  # 0.3, 0.4, 0.35
  final['mine'] = [0.7, 10.6, 0.65]
  lines = against_a2c.lines(compared())
  assert '| `chain_long` | 0.35 ± 0.12 + | -0.35 ± 0.12 - |' in lines
  assert lines[-1] == (
      'Lifetime by lifetime, of 15 kinds: compared on 1; at least one rule is '
      'above A2C on 1, all rules that were compared are below A2C on 0.')


def test_the_command_agrees_with_the_verdicts_of_figure3(capsys, tmp_path):
  """`figure3` prints verdicts for the same stored results."""
  path = str(_RESULTS / 'figure3.json')
  assert command_testing.call('against_a2c', [f'--results={path}']) == 0
  out = capsys.readouterr().out
  about, data = stored.load(path, figure3.NAME)
  cells = [line.split(' | ')[1] for line in out.splitlines()[
      :2 + len(suite.ENVIRONMENTS)]
           if line.startswith('| `') and ' / ' in line]
  ends = [cell.split(' / ') for cell in cells]
  for what, part in (('final return', 0), ('whole curve', 1)):
    signs = [pair[part] for pair in ends]
    assert (f'LPG against A2C, {what}, of {len(data)} kinds: above on '
            f'{signs.count("+")}, below on {signs.count("-")}, '
            f'intervals overlap on {signs.count("=")}.'
            ) in figure3.lines(about, data)
  stored.save(str(tmp_path / 'a.json'), figure3.NAME, about, {
      'chain_short': {'rules': {}}})
  for path, message in ((tmp_path / 'a.json', 'no rule was compared'),
                        (tmp_path / 'b.json', 'there is no file')):
    assert command_testing.call('against_a2c', [f'--results={path}']) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
  assert command_testing.call('against_a2c', []) == 2
  assert '--results is missing' in capsys.readouterr().err


def test_the_figure_has_the_baseline_and_is_reproducible(tmp_path):
  """Differences are 1 ± t/10; A2C has a mean of 2."""
  about = {'rules': {'LPG': {}}, 'settings': {'updates': 0, 'seed': 0}}
  found = against_a2c.compared(about, {'chain_long': {'rules': {
      label: {'final': values, 'whole': values} for label, values in {
          'LPG': [2.9, 3.1], 'A2C': [2., 2.]}.items()}}})
  assert found[0].baseline == {'chain_long': 2.}
  path = against_a2c.draw(found, str(tmp_path / 'forest.svg'))
  text = pathlib.Path(path).read_text(encoding='utf-8')
  assert text == pathlib.Path(against_a2c.draw(
      found, str(tmp_path / 'again.svg'))).read_text(encoding='utf-8')
  with pytest.raises(stored.ResultsError, match='cannot be drawn'):
    against_a2c.draw(found, str(tmp_path / 'none' / 'forest.svg'))
  with pytest.raises(stored.ResultsError, match='cannot be drawn'):
    against_a2c.draw(found, str(tmp_path / 'forest.nothing'))


def test_the_report_shows_its_table(capsys):
  report = (_RESULTS / 'against_a2c.md').read_text(encoding='utf-8')
  (command,) = [line for line in report.splitlines()
                if line.startswith('lpg against-a2c ')
                and '--figure' not in line]
  root = str(_RESULTS.parents[1])
  assert command_testing.call('against_a2c', [
      part.replace('--results=', f'--results={root}/')
      for part in command.split()[2:]]) == 0
  assert capsys.readouterr().out in report
