"""Metrics survive crashes, and no step is logged twice."""

import collections
import json
import math
import os
import resource
import sys
import tracemalloc
import types

import pytest

from lpg_distributed.store import loggers
from tests import waiting


def write(run_dir, steps, resume_step=None, tensorboard=False, offset=0.):
  logger = loggers.MetricsLogger(run_dir, 'learner', resume_step, tensorboard)
  for step in steps:
    logger.write(step, {'x': step + offset})
  logger.close()


def rows(run_dir):
  return [(row['step'], row['x'])
          for row in loggers.read_metrics(run_dir, 'learner')]


def file_of(tmp_path):
  return tmp_path / 'metrics' / 'learner.jsonl'


def test_rows_are_appended(tmp_path):
  write(tmp_path, range(2))
  write(tmp_path, [5])
  assert rows(tmp_path) == [(0, 0.), (1, 1.), (5, 5.)]


def test_a_row_is_written_at_once(tmp_path):
  logger = loggers.MetricsLogger(tmp_path, 'learner', tensorboard=False)
  logger.write(3, {'x': 1.5, 'n': 7, 'name': 'pong', 'none': None, 'b': True})
  assert json.loads(file_of(tmp_path).read_text()) == {
      'step': 3, 'x': 1.5, 'n': 7, 'name': 'pong', 'none': None, 'b': True}
  logger.close()


def test_a_resume_drops_the_rows_that_will_be_written_again(tmp_path):
  write(tmp_path, range(5))
  write(tmp_path, [3, 4, 5], resume_step=3, offset=0.5)
  assert rows(tmp_path) == [(0, 0.), (1, 1.), (2, 2.), (3, 3.5), (4, 4.5),
                            (5, 5.5)]
  write(tmp_path, [], resume_step=0)
  assert rows(tmp_path) == []


def test_a_resume_does_not_keep_the_rows_in_memory(tmp_path):
  logger = loggers.MetricsLogger(str(tmp_path), 'learner', tensorboard=False)
  for step in range(2000):
    logger.write(step, {f'return/{i}': step + i / 7 for i in range(50)})
  logger.close()
  size = file_of(tmp_path).stat().st_size
  tracemalloc.start()
  loggers.MetricsLogger(str(tmp_path), 'learner', 1999, False).close()
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < size / 4
  assert waiting.lines(file_of(tmp_path)) == 1999


def test_columns_that_are_read(tmp_path):
  logger = loggers.MetricsLogger(str(tmp_path), 'learner', tensorboard=False)
  logger.write(3, {'resets': 1, 'resets/a': 2, 'return/a': 0.5, 'kl/a': 4})
  logger.close()
  assert list(loggers.read_metrics(
      str(tmp_path), 'learner', ('resets', 'return/'))) == [
          {'step': 3, 'resets': 1, 'return/a': 0.5}]


def test_incomplete_lines_are_left_out(tmp_path):
  write(tmp_path, range(3))
  whole = file_of(tmp_path).read_bytes()
  for end in range(len(whole) - 11, len(whole)):
    file_of(tmp_path).write_bytes(whole[:end])
    if end < len(whole) - 1:  # The line break alone may be missing.
      assert rows(tmp_path) == [(0, 0.), (1, 1.)]
  write(tmp_path, [7])
  lines = file_of(tmp_path).read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [0, 1, 2, 7]


def test_a_damaged_line_loses_one_row(tmp_path):
  write(tmp_path, range(3))
  lines = file_of(tmp_path).read_bytes().splitlines(keepends=True)
  lines[1] = b'\xff\0' + lines[1][:5] + b'\n'
  file_of(tmp_path).write_bytes(b''.join(lines))
  assert rows(tmp_path) == [(0, 0.), (2, 2.)]


@pytest.mark.parametrize('line', [
    '[1]', '3', 'null', '"step"', '{}', '{"step": "1"}', '{"step": null}'])
@pytest.mark.parametrize('columns', [None, ('x',)])
def test_json_that_is_no_row_loses_one_row(line, columns, tmp_path):
  write(tmp_path, range(2))
  with open(file_of(tmp_path), 'a', encoding='utf-8') as f:
    f.write(f'{line}\n{{"step": 2, "x": 2.0}}\n')
  read = lambda: [row['step'] for row in loggers.read_metrics(
      tmp_path, 'learner', columns)]
  assert read() == [0, 1, 2]
  write(tmp_path, [2], resume_step=2)
  assert read() == [0, 1, 2]


def test_columns_have_numbers_alone(tmp_path):
  write(tmp_path, range(1))
  with open(file_of(tmp_path), 'a', encoding='utf-8') as f:
    f.write('{"step": 1, "x": "a"}\n{"step": 2, "x": [2]}\n')
  assert list(loggers.read_metrics(tmp_path, 'learner', ('x',))) == [
      {'step': 0, 'x': 0.}, {'step': 1}, {'step': 2}]


def test_a_pipe_in_place_of_the_file_is_not_waited_for(tmp_path):
  file_of(tmp_path).parent.mkdir()
  os.mkfifo(file_of(tmp_path))
  with pytest.raises(loggers.MetricsError, match='not a plain file'):
    list(loggers.read_metrics(tmp_path, 'learner'))


def test_a_missing_file_has_no_rows(tmp_path):
  assert list(loggers.read_metrics(tmp_path, 'learner')) == []


def test_values_that_are_not_finite_are_null(tmp_path):
  logger = loggers.MetricsLogger(tmp_path, 'learner', tensorboard=True)
  logger.write(0, {'x': math.nan, 'y': math.inf, 'z': -math.inf, 'n': 1})
  logger.close()
  text = file_of(tmp_path).read_text()
  assert 'NaN' not in text and 'Infinity' not in text
  assert json.loads(text) == {
      'step': 0, 'x': None, 'y': None, 'z': None, 'n': 1}


@pytest.fixture(autouse=True)
def _without_tensorflow(monkeypatch):
  """TensorBoard looks for this name before it imports TensorFlow."""
  name = 'tensorboard.compat.notf'
  monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


def curves(tmp_path, name):
  event_accumulator = pytest.importorskip(  # TensorFlow brings TensorBoard.
      'tensorboard.backend.event_processing.event_accumulator')
  reader = event_accumulator.EventAccumulator(
      str(tmp_path / 'metrics' / 'tensorboard' / name))
  reader.Reload()
  return {tag: [(e.step, e.value) for e in reader.Scalars(tag)]
          for tag in reader.Tags()['scalars']}


def test_tensorboard_has_the_same_values(tmp_path):
  logger = loggers.MetricsLogger(tmp_path, 'learner')
  for step in range(3):
    logger.write(step, {'x': step / 2, 'return/a': 1 - step, 'name': 'pong',
                        'bad': math.nan})
  logger.close()
  assert curves(tmp_path, 'learner') == {
      'x': [(0, 0.), (1, 0.5), (2, 1.)],
      'return/a': [(0, 1.), (1, 0.), (2, -1.)]}


def test_tensorboard_has_no_step_twice_after_a_resume(tmp_path):
  write(tmp_path, range(5), tensorboard=True)
  # Files are named by the second that they were opened in.
  directory = tmp_path / 'metrics' / 'tensorboard' / 'learner'
  for file in directory.iterdir():
    file.rename(directory / file.name.replace('tfevents.', 'tfevents.0'))
  write(tmp_path, [3, 4, 5], resume_step=3, tensorboard=True, offset=0.5)
  steps = [step for step, _ in curves(tmp_path, 'learner')['x']]
  assert collections.Counter(steps) == collections.Counter(range(6))
  assert dict(curves(tmp_path, 'learner')['x'])[4] == 4.5


def test_a_resume_needs_no_space(tmp_path, monkeypatch):
  write(tmp_path, range(5))
  with open(file_of(tmp_path), 'a', encoding='utf-8') as f:
    f.write('{"step": 5, "x"')

  def write_whole(path, data):
    del data
    raise OSError(28, 'No space left on device', path)

  monkeypatch.setattr(loggers.files, 'write_whole', write_whole)
  write(tmp_path, [3], resume_step=3, offset=0.5)
  assert rows(tmp_path) == [(0, 0.), (1, 1.), (2, 2.), (3, 3.5)]
  with open(file_of(tmp_path), 'a', encoding='utf-8') as f:
    f.write('{"step": 4, "x"')
  write(tmp_path, [4])
  assert rows(tmp_path)[3:] == [(3, 3.5), (4, 4.)]


def test_a_full_disk_loses_rows_and_does_not_block(tmp_path):
  """A limit of the file's size stands for a full disk."""
  logger = loggers.MetricsLogger(tmp_path, 'learner')
  values = {f'value_{i}': float(i) for i in range(50)}
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limits[1]))
  try:
    for step in range(100):  # TensorBoardX alone would wait for ever.
      logger.write(step, values)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  for step in range(100, 103):
    logger.write(step, values)
  logger.close()
  steps = [row['step'] for row in loggers.read_metrics(tmp_path, 'learner')]
  assert 10 <= len(steps) < 50 and {0, 1, 101, 102} <= set(steps)
  seen = [step for step, _ in curves(tmp_path, 'learner')['value_7']]
  assert {0, 1, 100, 101, 102} <= set(seen) and len(seen) == len(set(seen))
