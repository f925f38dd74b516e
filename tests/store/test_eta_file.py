"""Files of rules are loaded as saved; other files are refused."""

import io
import json
import os
import zipfile

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import files
from lpg_distributed.core import rule_vector
from lpg_distributed.store import eta_file
from lpg_distributed.store import tree_file

RULE = config_lib.RuleConfig(num_predictions=3, embedding_size=2, lstm_size=2)
SIZE = rule_vector.size(RULE)
ETA = np.linspace(-1, 1, SIZE, dtype=np.float32)
HEADER = {'format': 'lpg-eta-1', 'info': {}, 'rule': {
    'num_predictions': 3, 'embedding_size': 2, 'lstm_size': 2,
    'kind': 'lpg'}}


@pytest.fixture
def path(tmp_path):
  path = str(tmp_path / 'eta.npz')
  eta_file.save(path, ETA, RULE, meta_step=7, note='a')
  return path


def refused(path):
  with pytest.raises(eta_file.EtaFileError) as info:
    eta_file.load(str(path))
  assert str(path) in str(info.value) and '\n' not in str(info.value)
  return str(info.value)


def test_round_trip(path):
  loaded = eta_file.load(path)
  np.testing.assert_array_equal(loaded.eta, ETA)
  assert loaded.eta.dtype == np.float32
  assert loaded.rule == RULE
  assert loaded.info == {'meta_step': 7, 'note': 'a'}


def test_a_tree_is_saved_as_its_vector(tmp_path):
  tree = rule_vector.init(RULE, jax.random.PRNGKey(0))
  eta_file.save(str(tmp_path / 'eta'), tree, RULE)
  np.testing.assert_array_equal(eta_file.load(str(tmp_path / 'eta')).eta,
                                rule_vector.ravel(tree))


def test_files_cut_short_at_any_length_are_refused(path):
  with open(path, 'rb') as f:
    data = f.read()
  for size in range(len(data)):
    with open(path, 'wb') as f:
      f.write(data[:size])
    refused(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(path):
  """Some bits, such as a time in the archive, are no part of the rule."""
  with open(path, 'rb') as f:
    data = f.read()
  harmless = 0
  for i in range(len(data)):
    with open(path, 'wb') as f:
      f.write(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1:])
    try:
      loaded = eta_file.load(path)
    except eta_file.EtaFileError:
      continue
    harmless += 1
    np.testing.assert_array_equal(loaded.eta, ETA)
    assert loaded.rule == RULE
    assert loaded.info == {'meta_step': 7, 'note': 'a'}
  assert harmless < len(data) / 3


@pytest.mark.parametrize('arrays', [
    {'a': np.zeros(3)},
    {'eta': ETA},
    {'header': np.array(json.dumps(HEADER))},
    {'eta': ETA, 'header': np.array('no JSON')},
    {'eta': ETA, 'header': np.array('[]')},
    {'eta': ETA, 'header': np.array('3')},
    {'eta': ETA, 'header': np.array(3.)},
    {'eta': ETA, 'header': np.array(['{}', '{}'])},
    {'eta': ETA, 'header': np.array(json.dumps({**HEADER, 'rule': 3}))},
    {'eta': ETA, 'header': np.array(json.dumps({**HEADER, 'rule': {'a': 3}}))},
    {'eta': ETA, 'header': np.array(json.dumps(
        {**HEADER, 'rule': {'lstm_size': 0}}))},
    {'eta': ETA, 'header': np.array(json.dumps({**HEADER, 'info': 3}))},
    {'eta': ETA, 'header': np.array(json.dumps(
        {k: v for k, v in HEADER.items() if k != 'info'}))},
])
def test_other_archives_are_refused(tmp_path, arrays):
  path = tmp_path / 'other.npz'
  np.savez(path, **arrays)
  assert 'is not a rule' in refused(path)


def test_unknown_formats_are_refused(tmp_path):
  path = tmp_path / 'eta.npz'
  np.savez(path, eta=ETA, header=np.array(
      json.dumps({**HEADER, 'format': 'lpg-eta-2'})))
  message = refused(path)
  assert 'lpg-eta-2' in message and 'allowed: ' in message


@pytest.mark.parametrize('eta', [
    ETA[:-1], ETA[None], np.append(ETA, 0.).astype(np.float32),
    ETA.astype(np.float64), ETA.astype(np.int32)])
def test_other_shapes_and_types_are_refused(tmp_path, eta):
  path = tmp_path / 'eta.npz'
  np.savez(path, eta=eta, header=np.array(json.dumps(HEADER)))
  assert f'float32[{SIZE}]' in refused(path)


@pytest.mark.parametrize('change, message', [
    ({'rule': None}, 'rule is None; allowed: a group of fields'),
    ({'rule': [1]}, 'allowed: a group of fields'),
    ({'rule': {**HEADER['rule'], 'kind': 'a2c'}}, "rule.kind is 'a2c'"),
    ({'rule': {**HEADER['rule'], 'x': 1}}, "no field 'rule.x'"),
    ({'rule': {**HEADER['rule'], 'sees_policy': 'x'}}, 'allowed: true, false'),
    ({'rule': {**HEADER['rule'], 'lstm_size': 2 ** 31 - 1}}, 'allowed: up to'),
    ({'rule': {**HEADER['rule'], 'lstm_size': [3]}}, 'a whole number'),
    ({'info': [1]}, 'its info is no group of fields')])
def test_headers_of_another_form_are_refused(tmp_path, change, message):
  path = tmp_path / 'eta.npz'
  path.write_bytes(tree_file.pack({'eta': ETA}, {**HEADER, **change}))
  assert message in refused(path)


@pytest.mark.parametrize('name', ['rule', 'info'])
def test_a_header_without_its_parts_is_refused(tmp_path, name):
  path = tmp_path / 'eta.npz'
  path.write_bytes(tree_file.pack({'eta': ETA}, {
      key: value for key, value in HEADER.items() if key != name}))
  assert f'it has no {name}' in refused(path)


@pytest.mark.parametrize('step', ['7', [7], None, -1, 1.5, 10 ** 400])
def test_a_meta_step_that_is_no_number_is_refused(tmp_path, step):
  eta_file.save(str(tmp_path / 'eta.npz'), ETA, RULE, meta_step=step)
  assert 'meta_step is' in refused(tmp_path / 'eta.npz')


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(path, value):
  eta = ETA.copy()
  eta[3] = value
  eta_file.save(path, eta, RULE)
  assert 'not finite' in refused(path)


class _Bomb:
  """An object that runs code if it is unpickled."""

  def __reduce__(self):
    return os.mkdir, (os.environ['ETA_FILE_TEST_BOMB'],)


@pytest.mark.parametrize('name', ['eta', 'header'])
def test_nothing_is_unpickled(tmp_path, name, monkeypatch):
  monkeypatch.setenv('ETA_FILE_TEST_BOMB', str(tmp_path / 'exploded'))
  arrays = {'eta': ETA, 'header': np.array(json.dumps(HEADER)),
            name: np.array([_Bomb()], object)}
  path = tmp_path / 'eta.npz'
  np.savez(path, **arrays)
  refused(path)
  with open(path, 'wb') as f:  # Also as a file without an archive.
    np.save(f, arrays[name], allow_pickle=True)
  refused(path)
  assert not (tmp_path / 'exploded').exists()


def test_files_that_are_no_archives_are_refused(tmp_path):
  refused(tmp_path)
  for content in (b'', b'text', b'\x93NUMPY', b'PK\x03\x04', b'\x80\x04N.'):
    (tmp_path / 'file').write_bytes(content)
    refused(tmp_path / 'file')
  np.save(tmp_path / 'plain.npy', ETA)
  refused(tmp_path / 'plain.npy')
  assert refused(tmp_path / 'none').startswith('there is no file')


def test_members_are_plain_arrays(path):
  """Readable without this program."""
  with zipfile.ZipFile(path) as archive:
    assert sorted(archive.namelist()) == ['eta.npy', 'header.npy']
    eta = np.load(io.BytesIO(archive.read('eta.npy')), allow_pickle=False)
  np.testing.assert_array_equal(eta, ETA)


@pytest.mark.parametrize('function', ['fsync', 'replace'])
def test_a_failed_write_leaves_the_old_file(path, monkeypatch, function):
  def fail(*args):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(files.os, function, fail)
  with pytest.raises(OSError, match='No space'):
    eta_file.save(path, ETA + 1, RULE)
  monkeypatch.undo()
  np.testing.assert_array_equal(eta_file.load(path).eta, ETA)
  assert os.listdir(os.path.dirname(path)) == ['eta.npz']


def test_info_that_is_no_json_leaves_the_old_file(path):
  with pytest.raises(TypeError):
    eta_file.save(path, ETA + 1, RULE, x=np.zeros(3))
  np.testing.assert_array_equal(eta_file.load(path).eta, ETA)
