"""Files are written completely or not at all, also by several threads."""

from concurrent import futures
import json
import os

import pytest

from lpg_distributed import files


def test_threads_may_write_the_same_file(tmp_path):
  """Each write succeeds, and the file has the content of one of them."""
  path = str(tmp_path / 'file')
  contents = [bytes([i]) * 200_000 for i in range(8)]
  with futures.ThreadPoolExecutor(8) as pool:
    for _ in range(5):
      list(pool.map(lambda data: files.write_whole(path, data), contents))
      with open(path, 'rb') as f:
        assert f.read() in contents
  assert os.listdir(tmp_path) == ['file']


def test_a_failed_write_leaves_the_old_file_only(tmp_path):
  path = str(tmp_path / 'file')
  files.write_whole(path, b'old')
  with pytest.raises(TypeError):
    files.write_whole(path, 'text')
  assert os.listdir(tmp_path) == ['file']
  with open(path, 'rb') as f:
    assert f.read() == b'old'


def test_groups_of_json_may_be_nested_a_hundred_deep():
  """Strings may hold any number of brackets."""
  nest = lambda depth: '[' * depth + ']' * depth
  deepest = files.parse_json(nest(100))
  while deepest:
    (deepest,) = deepest
  text = '{"' + '[' * 300 + '": ["\\"' + '{' * 300 + '", ' + nest(98) + ']}'
  assert files.parse_json(text) == json.loads(text)
  many = '[' + ', '.join(['[]'] * 1000) + ']'
  assert files.parse_json(many.encode()) == [[]] * 1000
  for bad in (nest(101), '["' + '\\"' * 300 + '", ' + nest(100) + ']',
              '[' * 500_000):
    with pytest.raises(ValueError, match='nested too deep'):
      files.parse_json(bad)
  for bad in ('[' * 90 + '"', '"' + '\\"[' * 10_000, '"' + '[' * 300 + '\\'):
    with pytest.raises(ValueError):
      files.parse_json(bad)
