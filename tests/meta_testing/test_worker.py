"""Several workers share a list of jobs; the jobs are fakes."""

import os
import threading

import pytest

from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import run_record
from lpg_distributed.meta_testing import session
from lpg_distributed.meta_testing import worker

STEPS = 100


def make_tasks(root, number=3, env_steps=STEPS):
  return [worker.JobTask(
      jobs.make_job('atari/pong', 'a2c', seeds=[seed], env_steps=env_steps),
      os.path.join(root, f'seed{seed}')) for seed in range(number)]


class Session:
  """Replaces `session.run`."""

  def __init__(self, fail=(), in_use=(), stop_in=None, **row):
    self.fail, self.in_use, self.row = fail, in_use, row
    self.stop_in, self.started, self.threads = stop_in, [], []

  def __call__(self, job, directory, stop, watch, num_threads):
    (seed,) = job.seeds
    self.threads.append(num_threads)
    if seed in self.in_use:
      raise session.JobInUseError(f'{directory} is in use by another launch')
    self.started.append(seed)
    os.makedirs(directory, exist_ok=True)
    watch(run_record.Status(seed, 50, 10., 5., 1.5))
    if seed in self.fail:
      raise OSError('the emulator\nis gone')
    if seed == self.stop_in:
      stop.set()
      return False
    writer = results.Writer(directory, results.make_header(job, 4), {})
    writer.write({'seed': seed, 'env_steps': job.env_steps, 'return': 1.,
                  'episodes': 1, 'frames': 4 * job.env_steps, **self.row})
    writer.close()
    return True


def work(tasks, run, stop=None):
  return worker.Worker(tasks, stop or threading.Event(), 2, run).work()


def test_all_jobs_are_done_once(tmp_path):
  tasks, run = make_tasks(str(tmp_path)), Session()
  assert not any(map(worker.is_done, tasks))
  assert work(tasks, run) == 0
  assert run.started == [0, 1, 2] and run.threads == [2, 2, 2]
  assert all(map(worker.is_done, tasks))
  status = worker.read_status(tasks[0])
  assert status['state'] == 'done' and status['env_steps'] == 50
  again = Session()
  assert work(tasks, again) == 0 and again.started == []


def test_a_failing_job_does_not_stop_the_others(tmp_path):
  tasks = make_tasks(str(tmp_path))
  assert work(tasks, Session(fail=[1])) == 1
  assert list(map(worker.is_done, tasks)) == [True, False, True]
  assert worker.read_error(tasks[1]) == 'OSError: the emulator is gone'
  assert worker.read_error(tasks[0]) is None
  run = Session()
  assert work(tasks, run) == 0 and run.started == [1]
  assert worker.read_error(tasks[1]) is None


def test_jobs_in_use_by_another_worker_are_skipped(tmp_path):
  tasks, run = make_tasks(str(tmp_path)), Session(in_use=[0])
  assert work(tasks, run) == 0
  assert run.started == [1, 2] and worker.read_error(tasks[0]) is None


def test_a_stop_ends_the_work(tmp_path):
  tasks, run = make_tasks(str(tmp_path)), Session(stop_in=1)
  assert work(tasks, run) == 0 and run.started == [0, 1]
  assert worker.read_status(tasks[1])['state'] == 'stopped'


def test_a_job_is_done_at_its_last_step_or_if_it_diverged(tmp_path):
  root = str(tmp_path)
  (task,) = make_tasks(root, 1)
  Session(env_steps=STEPS - 1)(*task, threading.Event(), lambda s: None, 1)
  assert not worker.is_done(task)
  Session(env_steps=7, diverged=True)(*task, threading.Event(),
                                      lambda s: None, 1)
  assert worker.is_done(task)
  (other,) = make_tasks(root, 1, env_steps=STEPS + 1)
  with pytest.raises(results.ResultError, match='env_steps 100 in it'):
    worker.is_done(other)
  # A worker reports the damaged file and leaves it unchanged.
  assert work([other], Session()) == 1
  assert 'ResultError' in worker.read_error(other)
  assert worker.is_done(task)


@pytest.mark.parametrize('text', [
    '[1]', '3', 'null', '{}', '{"state": 3}',
    '{"state": "training", "env_steps": "a"}'])
def test_a_status_of_another_form_is_none(text, tmp_path):
  task, = make_tasks(str(tmp_path), 1)
  os.makedirs(task.directory)
  with open(os.path.join(task.directory, worker.STATUS_FILE), 'w',
            encoding='utf-8') as f:
    f.write(text)
  assert worker.read_status(task) is None
