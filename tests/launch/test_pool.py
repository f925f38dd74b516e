"""A pool leaves no processes behind, however it ends."""

import os
import subprocess
import sys
import threading
import time

import pytest

from lpg_distributed.launch.local import pool

_PROGRAM = '''
import sys, threading
from lpg_distributed.launch.local import pool
from tests.launch import test_pool
pool.work([pool.PoolTask(str(i), test_pool.write_pid, (sys.argv[1], i, 60.))
           for i in range(2)], 2, threading.Event())
'''


def write_pid(directory, number, wait_s, fails=False):
  """Writes the id of its process to a file."""
  with open(os.path.join(directory, f'{number}.aside'), 'w',
            encoding='utf-8') as f:
    f.write(str(os.getpid()))
  os.rename(f.name, os.path.join(directory, f'{number}.pid'))
  time.sleep(wait_s)
  if fails:
    raise ValueError('this one fails')


def _pids(directory):
  return [int((directory / name).read_text()) for name in os.listdir(directory)
          if name.endswith('.pid')]


def _is_alive(pid):
  try:
    with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
      return f.read().rsplit(')', 1)[1].split()[0] not in 'ZX'
  except FileNotFoundError:
    return False


def _until(condition, seconds=60.):
  end = time.monotonic() + seconds
  while time.monotonic() < end and not condition():
    time.sleep(0.05)
  return condition()


@pytest.mark.parametrize('fails', [False, True])
def test_no_process_is_left_after_all_tasks(tmp_path, fails):
  """The last task fails, when no other runs any more; or none fails."""
  tasks = [pool.PoolTask('0', write_pid, (str(tmp_path), 0, 0.)),
           pool.PoolTask('1', write_pid, (str(tmp_path), 1, 1., fails))]
  if fails:
    with pytest.raises(ValueError, match='this one fails'):
      pool.work(tasks, 2, threading.Event())
  else:
    assert pool.work(tasks, 2, threading.Event())
  assert len(_pids(tmp_path)) == 2
  assert not any(map(_is_alive, _pids(tmp_path)))


def test_no_process_is_left_after_a_stop(tmp_path):
  stop = threading.Event()
  threading.Thread(
      target=lambda: (_until(lambda: len(_pids(tmp_path)) == 2), stop.set())
  ).start()
  tasks = [pool.PoolTask(str(i), write_pid, (str(tmp_path), i, 60.))
           for i in range(3)]
  assert not pool.work(tasks, 2, stop)
  assert len(_pids(tmp_path)) == 2
  assert not any(map(_is_alive, _pids(tmp_path)))


def test_no_process_is_left_after_the_parent_is_killed(tmp_path):
  """A killed parent cannot end its workers."""
  parent = subprocess.Popen([sys.executable, '-c', _PROGRAM, str(tmp_path)])
  try:
    assert _until(lambda: len(_pids(tmp_path)) == 2)
    assert all(map(_is_alive, _pids(tmp_path)))
  finally:
    parent.kill()
    parent.wait()
  assert _until(lambda: not any(map(_is_alive, _pids(tmp_path))), 10.)
