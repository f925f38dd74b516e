"""Rows of scores, also after interrupted calls."""

import pytest

from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import score_rows
from lpg_distributed.store import loggers

NAMES = ('chain_short', 'chain_long', 'tabular_dense')
ROW = {'num_lifetimes': 4} | {
    key: value for i, name in enumerate(NAMES) for key, value in (
        (f'full/{name}', float(i)), (f'full/{name}/standard_error', 0.5))}


@pytest.mark.parametrize('num_lived', range(len(NAMES)))
def test_an_interrupted_row_is_resumed(num_lived, tmp_path):
  asked = []

  def scores_of(name):
    if len(asked) == num_lived:
      raise KeyboardInterrupt
    asked.append(name)
    return {'full': evaluation.KindScore(float(NAMES.index(name)), 0.5, 4)}

  run_dir = str(tmp_path)
  with pytest.raises(KeyboardInterrupt):
    score_rows.write(run_dir, 'a', 7, 4, NAMES, scores_of)
  assert not list(loggers.read_metrics(run_dir, 'a'))
  num_lived = 99
  assert score_rows.write(run_dir, 'a', 7, 4, NAMES, scores_of) == ROW
  assert asked == list(NAMES)
  assert list(loggers.read_metrics(run_dir, 'a')) == [{'step': 7, **ROW}]
  assert [path.name for path in (tmp_path / 'metrics').iterdir()] == [
      'a.jsonl']


@pytest.mark.parametrize('step, num_lifetimes, damage', [
    (8, 4, None), (7, 5, None), (7, 4, '{"about": 3'), (7, 4, '[]'),
    (7, 4, '{"about": {"step": 7, "num_lifetimes": 4}, "kinds": [1]}')])
def test_unfinished_rows_of_another_rule_are_computed_anew(
    step, num_lifetimes, damage, tmp_path):
  asked = []

  def scores_of(name):
    if len(asked) == 1:
      asked.append('')
      raise KeyboardInterrupt
    asked.append(name)
    return {'full': evaluation.KindScore(0., 0., 4)}

  with pytest.raises(KeyboardInterrupt):
    score_rows.write(str(tmp_path), 'a', 7, 4, NAMES, scores_of)
  if damage:
    (unfinished,) = (tmp_path / 'metrics').glob('*.unfinished.json')
    unfinished.write_text(damage)
  score_rows.write(str(tmp_path), 'a', step, num_lifetimes, NAMES, scores_of)
  assert asked == [NAMES[0], '', *NAMES]
