"""Checkpoints are complete or absent, and damaged ones are not used."""

import io
import json
import os
import shutil
import threading
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import coordinator
from lpg_distributed.store import checkpointing
from lpg_distributed.store import tree_file

CheckpointError = checkpointing.CheckpointError
PARTS = {'bandit': b'{"a": [1]}', 'learner': b'learner' * 50,
         'shard_00000': b'0' * 100, 'shard_00001': b'1' * 100}


class _Steps(NamedTuple):
  discount_t: np.ndarray


class _State(NamedTuple):
  a: np.ndarray
  b: dict


def make_tree(offset=0.):
  return {'step': 3, 'state': _State(
      jnp.arange(6.).reshape(2, 3) + offset,
      {'x': np.int32(4), 'y': (np.array([True]), np.zeros((0, 2)))})}


@pytest.mark.parametrize('name', ['.discount_t', '.discount'])
def test_renamed_fields_are_read(name):
  """Files of earlier versions call `discount_t` `discount`."""
  steps = _Steps(np.arange(3.))
  data = checkpointing.save_tree(steps)
  assert np.load(io.BytesIO(data)).files == ['.discount_t']
  data = tree_file.pack({name: steps.discount_t})
  np.testing.assert_array_equal(
      checkpointing.load_tree(data, steps).discount_t, steps.discount_t)


def write(run_dir, step, kept=3):
  """Writes a checkpoint whose parts contain their step."""
  records = [checkpointing.write_part(run_dir, step, name,
                                      data + str(step).encode())
             for name, data in PARTS.items()]
  return checkpointing.commit(run_dir, step, records, kept)


def path_of(run_dir, step, *names):
  return os.path.join(run_dir, 'checkpoints', f'step_{step:08d}', *names)


def assert_latest(run_dir, step):
  checkpoint = checkpointing.latest(run_dir)
  assert checkpoint.meta_step == step
  for name, data in PARTS.items():
    assert checkpointing.read_part(checkpoint, name) == (
        data + str(step).encode())


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch):
  monkeypatch.setattr(os, 'fsync', lambda descriptor: None)


@pytest.fixture
def run_dir(tmp_path):
  return str(tmp_path)


def test_trees_are_loaded_as_saved():
  tree = make_tree()
  loaded = checkpointing.load_tree(checkpointing.save_tree(tree),
                                   make_tree(offset=9.))
  assert isinstance(loaded['state'], _State) and loaded['step'] == 3
  np.testing.assert_array_equal(loaded['state'].a, tree['state'].a)
  assert loaded['state'].a.dtype == np.float32
  assert loaded['state'].b['x'] == 4
  assert loaded['state'].b['y'][0].dtype == bool
  assert loaded['state'].b['y'][1].shape == (0, 2)


def test_a_single_array_is_a_tree():
  np.testing.assert_array_equal(checkpointing.load_tree(
      checkpointing.save_tree(np.arange(3)), np.zeros(3, int)), np.arange(3))


@pytest.mark.parametrize('like, part', [
    ({'a': np.zeros(4, np.float32)},
     r'float32\[3\]; needed: float32\[4\]'),
    ({'a': np.zeros(3)}, r'float32\[3\]; needed: float64'),
    ({'a': np.zeros((3, 1), np.float32)}, r'float32\[3, 1\]'),
    ({'b': np.zeros(3, np.float32)}, r"other arrays: \['b'\] is missing"),
    ({'a': np.zeros(3, np.float32), 'b': 1},
     r"other arrays: \['b'\] is missing"),
    ({}, r"other arrays: \['a'\] is not expected"),
])
def test_other_trees_are_refused(like, part):
  data = checkpointing.save_tree({'a': np.zeros(3, np.float32)})
  with pytest.raises(CheckpointError, match=part):
    checkpointing.load_tree(data, like)


def test_data_that_is_no_tree_is_refused():
  data = checkpointing.save_tree({'a': np.zeros(3)})
  objects = checkpointing.save_tree({'a': np.array([{}], object)})
  for bad in (b'', b'x', data[:-1], data[:60], b'PK\x03\x04', objects):
    with pytest.raises(CheckpointError):
      checkpointing.load_tree(bad, {'a': np.zeros(3)})


def test_no_checkpoint_is_no_error(run_dir):
  assert checkpointing.latest(run_dir) is None
  checkpointing.write_part(run_dir, 5, 'learner', b'x')
  assert checkpointing.latest(run_dir) is None


def test_latest_is_the_newest_checkpoint(run_dir):
  for step in (5, 10, 123456789):
    assert write(run_dir, step).meta_step == step
    assert_latest(run_dir, step)


def load_bandit(run_dir, data):
  record = checkpointing.write_part(run_dir, 1, 'bandit', data)
  return checkpointing.load_json(
      checkpointing.commit(run_dir, 1, [record], 1), 'bandit')


def test_json_parts_are_loaded(run_dir):
  assert load_bandit(run_dir, b'{"a": [1]}') == {'a': [1]}
  with pytest.raises(CheckpointError, match='no part learner'):
    checkpointing.read_part(checkpointing.latest(run_dir), 'learner')


@pytest.mark.parametrize('kept', [1, 2, 4])
def test_only_the_newest_checkpoints_are_kept(run_dir, kept):
  for step in range(5):
    write(run_dir, step, kept)
  assert sorted(os.listdir(os.path.join(run_dir, 'checkpoints'))) == [
      f'step_{step:08d}' for step in range(5 - kept, 5)]


class _Crash(BaseException):
  """Stands for the death of a process."""


class _Disk:
  """Allows a number of changes; at the next one, the process dies."""

  def __init__(self, monkeypatch, allowed):
    self._left = allowed
    for module, name in ((os, 'fsync'), (os, 'replace'), (os, 'remove'),
                         (os, 'makedirs'), (shutil, 'rmtree')):
      monkeypatch.setattr(module, name, self._guard(getattr(module, name)))

  def _guard(self, function):
    def call(*args, **kwargs):
      if not self._left:
        raise _Crash
      self._left -= 1
      return function(*args, **kwargs)
    return call


@pytest.mark.parametrize('again', [False, True])
def test_a_crash_at_any_change_leaves_a_complete_checkpoint(
    tmp_path, monkeypatch, caplog, again):
  """While a new step is written, or one that replaces a damaged checkpoint."""
  crashes = 0
  for allowed in range(100):
    run_dir = str(tmp_path / str(allowed))
    write(run_dir, 1, kept=2)
    write(run_dir, 2, kept=2)
    if again:
      write(run_dir, 3, kept=3)
      cut_short(path_of(run_dir, 3, 'learner'))
    with monkeypatch.context() as patch:
      _Disk(patch, allowed)
      try:
        write(run_dir, 3, kept=2)
      except _Crash:
        crashes += 1
      else:
        break
    assert checkpointing.latest(run_dir).meta_step in (2, 3)
    assert_latest(run_dir, checkpointing.latest(run_dir).meta_step)
    assert bool(caplog.records) <= again  # No new damage.
    write(run_dir, 3, kept=2)  # The next attempt succeeds.
    assert_latest(run_dir, 3)
    assert sorted(os.listdir(os.path.join(run_dir, 'checkpoints'))) == [
        'step_00000002', 'step_00000003']
  assert_latest(run_dir, 3)
  assert crashes > 4 * len(PARTS)  # Make, write, rename and sync.


def cut_short(path, size=-1):
  with open(path, 'rb') as f:
    data = f.read()
  with open(path, 'wb') as f:
    f.write(data[:size])


def change(path):
  with open(path, 'rb') as f:
    data = f.read()
  with open(path, 'wb') as f:
    f.write(data[:5] + bytes([data[5] ^ 1]) + data[6:])


def replace_by_pipe(path):
  os.remove(path)
  os.mkfifo(path)


def nest(path):
  with open(path, 'w', encoding='utf-8') as f:
    f.write('[' * 500_000)


@pytest.mark.parametrize('damage', [
    cut_short, change, os.remove, lambda path: cut_short(path, 0),
    replace_by_pipe, nest, lambda path: os.truncate(path, 40 << 30)])
@pytest.mark.parametrize('name', [*PARTS, 'manifest.json'])
def test_a_damaged_checkpoint_is_named_and_the_previous_is_used(
    run_dir, caplog, damage, name):
  """At once and in little memory, also where a part has 40 GB."""
  write(run_dir, 4)
  write(run_dir, 8)
  damage(path_of(run_dir, 8, name))
  begin = time.thread_time()  # Others may use the processors.
  assert_latest(run_dir, 4)
  assert time.thread_time() - begin < 2.
  message = caplog.records[0].getMessage()
  assert path_of(run_dir, 8) in message
  assert name.split('.')[0] in message


@pytest.mark.parametrize('change_manifest', [
    lambda m: m.update(format=1), lambda m: m.update(meta_step=4),
    lambda m: m.pop('parts'), lambda m: m['parts'][0].pop('size'),
    lambda m: m['parts'][0].update(x=1), lambda m: m['parts'].append(3),
    lambda m: m['parts'][0].update(size=40 << 30)])
def test_invalid_manifests_are_not_used(run_dir, change_manifest):
  write(run_dir, 4)
  write(run_dir, 8)
  with open(path_of(run_dir, 8, 'manifest.json'), encoding='utf-8') as f:
    manifest = json.load(f)
  change_manifest(manifest)
  with open(path_of(run_dir, 8, 'manifest.json'), 'w', encoding='utf-8') as f:
    json.dump(manifest, f)
  assert_latest(run_dir, 4)


def test_only_damaged_checkpoints_are_an_error(run_dir, caplog):
  for step in (4, 8):
    write(run_dir, step)
    cut_short(path_of(run_dir, step, 'learner'))
  with pytest.raises(CheckpointError) as info:
    checkpointing.latest(run_dir)
  for step in (4, 8):
    assert path_of(run_dir, step, 'learner') in str(info.value)
  assert '\n' not in str(info.value) and not caplog.records


def test_a_part_larger_than_its_tree_is_not_read(run_dir, monkeypatch):
  record = checkpointing.write_part(run_dir, 1, 'learner', bytes(1 << 20))
  checkpoint = checkpointing.commit(run_dir, 1, [record], 1)
  monkeypatch.setattr(checkpointing, '_read_verified', None)
  with pytest.raises(CheckpointError, match='has 1048576 bytes; allowed: up'):
    checkpointing.read_tree(checkpoint, 'learner', {'a': np.zeros(3)})


@pytest.mark.parametrize('data, message', [
    (b'[' * 500_000, 'too deep'), (b'[1]', 'no JSON'), (b'3', 'no JSON')])
def test_a_part_that_is_no_json_object_is_refused(run_dir, data, message):
  with pytest.raises(CheckpointError, match=message):
    load_bandit(run_dir, data)


def test_a_run_without_any_step_has_no_bandit(run_dir):
  assert load_bandit(run_dir, b'null') is None


def test_a_part_too_large_to_be_read_is_not_written(run_dir, monkeypatch):
  monkeypatch.setattr(checkpointing, '_LARGEST_PART', 10)
  with pytest.raises(OSError, match='lower run.lifetimes_per_shard'):
    checkpointing.write_part(run_dir, 1, 'learner', bytes(11))


def test_no_commit_without_its_parts(run_dir):
  write(run_dir, 1)
  record = checkpointing.write_part(run_dir, 2, 'learner', b'abc')
  for wrong in (record._replace(size=4), record._replace(name='x')):
    with pytest.raises(CheckpointError, match=f'part {wrong.name}'):
      checkpointing.commit(run_dir, 2, [record, wrong], 3)
  assert_latest(run_dir, 1)


# The coordinator.


SHARDS = ('shard_00000', 'shard_00001')
OWN = {'learner': b'l', 'bandit': b'b'}


def make_coordinator(run_dir, kept=3):
  return coordinator.CheckpointCoordinator(run_dir, SHARDS, kept)


def write_shard(run_dir, step, name):
  return checkpointing.write_part(run_dir, step, name,
                                  f'{name} {step}'.encode())


def test_a_checkpoint_is_complete_when_its_last_part_arrives(run_dir):
  coordinate = make_coordinator(run_dir)
  assert (coordinate.open_step, coordinate.last_committed) == (-1, -1)
  coordinate.open(6, OWN)
  assert coordinate.open_step == 6
  assert coordinate.record(6, write_shard(run_dir, 6, SHARDS[0]))
  assert coordinate.record(6, write_shard(run_dir, 6, SHARDS[0]))  # Twice.
  assert coordinate.wait(0.01) == [SHARDS[1]]
  assert checkpointing.latest(run_dir) is None
  assert coordinate.record(6, write_shard(run_dir, 6, SHARDS[1]))
  assert coordinate.wait(0.) == []
  assert (coordinate.open_step, coordinate.last_committed) == (-1, 6)
  assert [p.name for p in checkpointing.latest(run_dir).parts] == sorted(
      [*OWN, *SHARDS])
  assert coordinate.seconds_since_commit < 60


def test_parts_that_no_checkpoint_awaits_are_refused(run_dir):
  coordinate = make_coordinator(run_dir)
  record = write_shard(run_dir, 6, SHARDS[0])
  assert not coordinate.record(6, record)  # Nothing is open.
  coordinate.open(6, OWN)
  assert not coordinate.record(5, record)
  assert not coordinate.record(6, record._replace(name='shard_00002'))
  assert not coordinate.record(6, record._replace(name='learner'))
  assert coordinate.wait(0.) == list(SHARDS)


def test_a_stale_open_checkpoint_is_given_up(run_dir, caplog):
  coordinate = make_coordinator(run_dir)
  coordinate.open(6, OWN)
  late = write_shard(run_dir, 6, SHARDS[0])
  coordinate.record(6, late)
  coordinate.open(7, OWN)
  assert 'shard_00001' in caplog.text and '6' in caplog.text
  assert not coordinate.record(6, late)
  assert coordinate.wait(0.) == list(SHARDS)
  for name in SHARDS:
    coordinate.record(7, write_shard(run_dir, 7, name))
  assert checkpointing.latest(run_dir).meta_step == 7
  assert os.listdir(os.path.join(run_dir, 'checkpoints')) == ['step_00000007']


def test_a_checkpoint_without_shards_is_complete_at_once(run_dir):
  coordinate = coordinator.CheckpointCoordinator(run_dir, (), 3)
  coordinate.open(1, OWN)
  assert coordinate.last_committed == 1


def test_parts_of_many_threads_form_one_checkpoint(run_dir):
  names = [checkpointing.shard_part_name(i) for i in range(12)]
  coordinate = coordinator.CheckpointCoordinator(run_dir, names, 2)
  for step in range(4):
    coordinate.open(step, OWN)
    threads = [threading.Thread(target=lambda n=name: coordinate.record(
        step, write_shard(run_dir, step, n))) for name in names]
    waiting = threading.Thread(target=coordinate.wait, args=(30.,))
    for thread in [waiting, *threads]:
      thread.start()
    for thread in [waiting, *threads]:
      thread.join(30.)
      assert not thread.is_alive()
    checkpoint = checkpointing.latest(run_dir)
    assert checkpoint.meta_step == step
    assert len(checkpoint.parts) == len(names) + len(OWN)
  assert len(os.listdir(os.path.join(run_dir, 'checkpoints'))) == 2


@pytest.mark.parametrize('about, part', [
    ({'config': {'run': {'seed': 7}}}, 'run.seed: 7 -> 0'),
    ({'config': {'run': {'sed': 7}}}, 'another version: there is no field'),
    ({'config': 3}, 'another version')])
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(
    run_dir, about, part):
  record = checkpointing.write_part(run_dir, 1, 'learner', b'x')
  checkpointing.commit(run_dir, 1, [record], 1, about)
  checkpoint = checkpointing.latest(run_dir)
  with pytest.raises(checkpointing.CheckpointError, match=part):
    checkpointing.require_same_config(checkpoint, config_lib.Config())


def test_fields_that_may_change_on_resume_are_no_difference(run_dir):
  record = checkpointing.write_part(run_dir, 1, 'learner', b'x')
  checkpointing.commit(run_dir, 1, [record], 1, {
      'config': {'run': {'num_workers': 7, 'meta_steps': 3}}})
  checkpointing.require_same_config(checkpointing.latest(run_dir),
                                    config_lib.Config())


@pytest.mark.parametrize('name', ['../learner', '/etc/passwd', 'manifest.json',
                                  'learner/../../x', 'shard_1'])
def test_parts_with_names_outside_the_checkpoint_are_refused(run_dir, name):
  write(run_dir, 4)
  path = path_of(run_dir, 4, 'manifest.json')
  with open(path, encoding='utf-8') as f:
    manifest = json.load(f)
  manifest['parts'][0]['name'] = name
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(manifest, f)
  with pytest.raises(checkpointing.CheckpointError, match='a part is called'):
    checkpointing.latest(run_dir)


def test_a_full_disk_gives_up_one_checkpoint_and_not_the_next(
    run_dir, monkeypatch):
  coordinated = coordinator.CheckpointCoordinator(run_dir, ['shard_00000'], 3)
  write_part = checkpointing.write_part

  def fail(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(checkpointing, 'write_part', fail)
  coordinated.open(1, {'learner': b'x'})
  assert coordinated.open_step == -1 and coordinated.num_failures == 1
  assert 'No space' in coordinated.failure
  monkeypatch.setattr(checkpointing, 'write_part', write_part)
  coordinated.open(2, {'learner': b'x'})
  coordinated.give_up(1, 'an old one')
  coordinated.give_up(2, 'a worker has no space')
  assert coordinated.open_step == -1 and coordinated.num_failures == 2
  coordinated.open(3, {'learner': b'x'})
  assert coordinated.record(
      3, checkpointing.write_part(run_dir, 3, 'shard_00000', b'y'))
  assert coordinated.last_committed == 3 and not coordinated.failure
  assert checkpointing.latest(run_dir).meta_step == 3
