"""Hostile `.npz` files: refused in one line, at once, in little memory."""

import io
import json
import os
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed.core import rule_vector
from lpg_distributed.meta_testing import agent_checkpoint
from lpg_distributed.store import agent_file
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import policy_file
from lpg_distributed.store import tree_file

RULE = config_lib.RuleConfig(num_predictions=3, embedding_size=2, lstm_size=2)
ETA = np.zeros(rule_vector.size(RULE), np.float32)
SECONDS, BYTES = 2., 300e6  # limits of a refusal


def array_header(shape, descr='<f4', version=(1, 0)):
  """The header of a member that claims to be such an array."""
  buffer = io.BytesIO()
  header = {'descr': descr, 'fortran_order': False, 'shape': shape}
  (np.lib.format.write_array_header_1_0 if version == (1, 0)
   else np.lib.format.write_array_header_2_0)(buffer, header)
  return buffer.getvalue()


def archive(members, compression=zipfile.ZIP_STORED):
  """An archive of (name, data); data may be the pieces of a large one."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', compression) as file:
    for name, data in members:
      with file.open(name, 'w', force_zip64=True) as f:
        for piece in [data] if isinstance(data, bytes) else data:
          f.write(piece)
  return buffer.getvalue()


def zeros(shape, count):
  yield array_header(shape)
  for _ in range(count):
    yield bytes(1 << 22)


def bomb(compression, megabytes):
  size = megabytes << 18  # of float32
  return archive([('eta.npy', zeros((size,), megabytes >> 2)),
                  ('leaf_0.npy', zeros((size,), megabytes >> 2))], compression)


def many_members():
  return archive((f'{i}.npy', b'') for i in range(60_000))


def duplicates():
  member = array_header((1,)) + bytes(4)
  with pytest.warns(UserWarning, match='Duplicate'):
    return archive([('eta.npy', member)] * 3000)


def header_of(text):
  buffer = io.BytesIO()
  np.save(buffer, np.array(text))
  return archive([('header.npy', buffer.getvalue())])


def with_true_header(members, compression=zipfile.ZIP_STORED):
  """Puts the members behind a header that every reader accepts."""
  buffer = io.BytesIO()
  np.save(buffer, np.array(json.dumps({
      'format': 'lpg-eta-1', 'info': {}, 'rule': {'lstm_size': 1 << 20}})))
  return archive([('header.npy', buffer.getvalue()), *members], compression)


HOSTILE = {
    'bzip2': lambda: bomb(zipfile.ZIP_BZIP2, 320),
    'lzma': lambda: bomb(zipfile.ZIP_LZMA, 64),
    'deflate': lambda: bomb(zipfile.ZIP_DEFLATED, 320),
    'deflate with a header': lambda: with_true_header(
        [('eta.npy', zeros((80 << 18,), 20))], zipfile.ZIP_DEFLATED),
    'many members': many_members,
    'duplicate members': duplicates,
    'huge shape': lambda: archive([('eta.npy', array_header((1 << 60,)))]),
    'negative shape': lambda: archive([('eta.npy', array_header((-1,)))]),
    'wide text': lambda: archive([('header.npy', array_header(
        (), '<U500000000'))]),
    'long array header': lambda: archive(
        [('eta.npy', b'\x93NUMPY\x02\x00' + (1 << 31).to_bytes(4, 'little'))]),
    'nested array header': lambda: archive(
        [('eta.npy', b'\x93NUMPY\x01\x00' + (4000).to_bytes(2, 'little')
          + b'(' * 4000)]),
    'nested JSON': lambda: header_of('[' * 500_000),
    'nested groups': lambda: header_of('{"format":' * 100_000),
    'long JSON': lambda: header_of(' ' * (2 << 20)),
    'JSON that is no group': lambda: header_of('3'),
    'huge rule': lambda: with_true_header([('eta.npy', array_header((1,))
                                            + bytes(4))]),
    'zlib': lambda: zlib.compress(bytes(1 << 20)),
}


@pytest.fixture(scope='module', params=HOSTILE)
def hostile(request, tmp_path_factory):
  path = tmp_path_factory.mktemp('hostile') / agent_checkpoint.FILE
  path.write_bytes(HOSTILE[request.param]())
  return str(path)


def read_part(path):
  with open(path, 'rb') as f:
    return checkpointing.load_tree(f.read(), {'a': ETA})


def load_checkpoint(path):
  found = agent_checkpoint.load(os.path.dirname(path))
  return agent_checkpoint.restore(found, [ETA])


READERS = {'eta': eta_file.load,
           'agent': lambda path: agent_file.load(path, {'a': ETA}),
           'checkpoint': load_checkpoint, 'part': read_part,
           'policy': policy_file.load}


def assert_refused(reader, path):
  """The reader refuses in one line, within the limits."""
  tracemalloc.start()
  begin = time.thread_time()  # Others may use the processors.
  try:
    with pytest.raises(errors.UserError) as info:
      READERS[reader](path)
    assert time.thread_time() - begin < SECONDS
    assert tracemalloc.get_traced_memory()[1] < BYTES
  finally:
    tracemalloc.stop()
  assert '\n' not in str(info.value)


@pytest.mark.parametrize('reader', READERS)
def test_hostile_files_are_refused(hostile, reader):
  assert_refused(reader, hostile)


@pytest.mark.parametrize('reader', [r for r in READERS if r != 'part'])
@pytest.mark.parametrize('kind', ['pipe', 'directory', 'device'])
def test_paths_that_are_no_plain_files_are_refused(tmp_path, reader, kind):
  """Opening a pipe without a writer would block for ever."""
  path = str(tmp_path / agent_checkpoint.FILE)
  {'pipe': os.mkfifo, 'directory': os.mkdir,
   'device': lambda path: os.symlink('/dev/zero', path)}[kind](path)
  assert_refused(reader, path)


def test_arrays_of_every_layout_are_loaded_as_saved():
  tree = {'a': np.asfortranarray(np.arange(6).reshape(2, 3)),
          'b': (np.float32(3), np.zeros((0, 4), bool), np.array('text')),
          'c': 5}
  for compressed in (False, True):
    data = tree_file.pack(tree_file.named_leaves(tree), {'x': [1]}, compressed)
    with tree_file.open_tree(data) as saved:
      assert saved.read_header() == {'x': [1]}
      loaded = saved.read_tree(tree)
    np.testing.assert_array_equal(loaded['a'], tree['a'])
    assert loaded['b'][0] == 3 and loaded['b'][1].shape == (0, 4)
    assert loaded['b'][2] == 'text' and loaded['c'] == 5
    assert len(data) <= tree_file.size_of(tree)


def test_nothing_is_read_before_all_headers_fit(monkeypatch):
  data = tree_file.pack({'a': np.zeros(3), 'b': np.zeros(4)})
  monkeypatch.setattr(np.lib.format, 'read_array', None)
  with tree_file.open_tree(data) as saved:
    assert saved.specs['b'] == ((4,), np.float64)
    with pytest.raises(tree_file.TreeFileError, match=r'b is float64\[4\]'):
      saved.read_leaves({'a': np.zeros(3), 'b': np.zeros(5)})
