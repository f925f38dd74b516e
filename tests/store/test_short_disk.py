"""Checkpoints on a disk with little space, and leftovers of attempts."""

import os

import pytest

from lpg_distributed.nodes import coordinator
from lpg_distributed.store import checkpointing


def path_of(run_dir, step):
  return os.path.join(run_dir, 'checkpoints', f'step_{step:08d}')


@pytest.fixture
def run_dir(tmp_path):
  return str(tmp_path)


class SmallDisk:
  """A disk of 12 blocks; a checkpoint takes 5, and one for its manifest."""

  SIZE = 12_000

  def __init__(self, run_dir, monkeypatch, shows_free_space):
    self._run_dir = run_dir
    self._write = checkpointing.files.write_whole
    monkeypatch.setattr(checkpointing.files, 'write_whole', self.write)
    self.other = 0  # Bytes that others use.
    if shows_free_space:  # Quotas are not shown by statvfs.
      monkeypatch.setattr(os, 'statvfs', self.statvfs)

  def free(self):
    return self.SIZE - self.other - sum(
        os.path.getsize(os.path.join(directory, name))
        for directory, _, names in os.walk(self._run_dir) for name in names)

  def statvfs(self, path):
    del path
    return os.statvfs_result([1, 1, 0, 0, max(0, self.free()), 0, 0, 0, 0, 0])

  def write(self, path, data):
    if len(data) > self.free():
      raise OSError(28, 'No space left on device', path)
    self._write(path, data)


def attempt(it, run_dir, step):
  """Writes a checkpoint of 5,000 bytes, as a learner and a worker do."""
  it.open(step, {'learner': bytes(2500)})
  if it.open_step == step:
    try:
      it.record(step, checkpointing.write_part(run_dir, step, 'shard_00000',
                                               bytes(2000)))
    except OSError as error:
      it.give_up(step, str(error))
  return it.last_committed == step


@pytest.mark.parametrize('shows_free_space', [True, False])
def test_a_disk_that_was_short_for_a_while_takes_checkpoints_again(
    run_dir, monkeypatch, shows_free_space):
  """Leftovers of failed attempts do not fill the disk."""
  disk = SmallDisk(run_dir, monkeypatch, shows_free_space)
  it = coordinator.CheckpointCoordinator(run_dir, ['shard_00000'], kept=3)
  written = [attempt(it, run_dir, step) for step in range(20)]
  if shows_free_space:  # The oldest is removed in time.
    assert all(written)
  assert sum(written) >= 10 and any(written[-2:])
  disk.other = 9_000
  assert not attempt(it, run_dir, 20)
  newest = checkpointing.latest(run_dir).meta_step
  assert newest == max(step for step in range(20) if written[step])
  assert not [name for name in os.listdir(os.path.join(run_dir, 'checkpoints'))
              if name.endswith('.incomplete')]
  disk.other = 0
  assert attempt(it, run_dir, 21) or attempt(it, run_dir, 22)


def test_leftovers_of_a_killed_launch_are_removed_on_resume(run_dir):
  """Otherwise they would keep their space for ever."""
  record = checkpointing.write_part(run_dir, 1, 'learner', b'x')
  checkpointing.commit(run_dir, 1, [record], 3)
  checkpointing.write_part(run_dir, 7, 'learner', b'x')
  other = os.path.join(run_dir, 'checkpoints', 'notes.incomplete')
  os.mkdir(other)  # No checkpoint.
  it = coordinator.CheckpointCoordinator(run_dir, ['shard_00000'], kept=3)
  assert not os.path.exists(path_of(run_dir, 7) + '.incomplete')
  assert os.path.exists(other) and os.path.exists(path_of(run_dir, 1))
  # A worker may write before the learner opens the same checkpoint.
  checkpointing.write_part(run_dir, 8, 'shard_00000', b'x')
  it.open(8, {'learner': b'y'})
  assert os.listdir(path_of(run_dir, 8) + '.incomplete')
  assert checkpointing.remove_oldest(run_dir) is None
