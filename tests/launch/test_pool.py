"""No way that a pool ends leaves processes behind."""

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
pool.work([pool.PoolTask(str(i), test_pool.note, (sys.argv[1], i, 60.))
           for i in range(2)], 2, threading.Event())
'''


def note(directory, number, wait_s, fails=False):
  """Leaves the number of its process."""
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
def test_at_the_end_of_all_tasks(tmp_path, fails):
  """The last one fails, when nothing else runs any more; or none does."""
  tasks = [pool.PoolTask('0', note, (str(tmp_path), 0, 0.)),
           pool.PoolTask('1', note, (str(tmp_path), 1, 1., fails))]
  if fails:
    with pytest.raises(ValueError, match='this one fails'):
      pool.work(tasks, 2, threading.Event())
  else:
    assert pool.work(tasks, 2, threading.Event())
  assert len(_pids(tmp_path)) == 2
  assert not any(map(_is_alive, _pids(tmp_path)))


def test_stopped(tmp_path):
  stop = threading.Event()
  threading.Thread(
      target=lambda: (_until(lambda: len(_pids(tmp_path)) == 2), stop.set())
  ).start()
  assert not pool.work([pool.PoolTask(str(i), note, (str(tmp_path), i, 60.))
                        for i in range(3)], 2, stop)
  assert len(_pids(tmp_path)) == 2
  assert not any(map(_is_alive, _pids(tmp_path)))


def test_killed(tmp_path):
  """Workers die with a parent that cannot say goodbye."""
  parent = subprocess.Popen([sys.executable, '-c', _PROGRAM, str(tmp_path)])
  try:
    assert _until(lambda: len(_pids(tmp_path)) == 2)
    assert all(map(_is_alive, _pids(tmp_path)))
  finally:
    parent.kill()
    parent.wait()
  assert _until(lambda: not any(map(_is_alive, _pids(tmp_path))), 10.)
