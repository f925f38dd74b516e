"""A learner with a worker in its process gives the same eta."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import jax
import pytest

from lpg_distributed.launch import process_environment
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import learner_host
from lpg_distributed.nodes import lifetime_worker
from lpg_distributed.nodes import meta_learner
from tests.nodes import learner_testing

_ROOT = pathlib.Path(__file__).parents[2]

# Runs in its own processes: the number of devices is fixed when JAX starts.
_SCRIPT = '''
import json, os, sys, threading
import jax
from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import local_loop
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import bandit_server
from lpg_distributed.store import checkpointing
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import learner_host
from lpg_distributed.nodes import lifetime_worker

root, devices = sys.argv[1], int(sys.argv[2])
assert jax.local_device_count() == devices
jax.config.update('jax_disable_most_optimizations', True)
# All workers have one compiled program, to save time.
make_shard, made, lock = lifetime_worker.LifetimeWorker._make_shard, {}, (
    threading.Lock())


def make_shard_once(self, *kind):
  with lock:
    if kind not in made:
      made[kind] = make_shard(self, *kind)
    return made[kind]


lifetime_worker.LifetimeWorker._make_shard = make_shard_once


def make_config(*overrides):
  return config_io.apply_overrides(config_lib.Config(), (
      'environments=chain_short', 'agents.*.lifetime_env_steps=60',
      'rule.lstm_size=8', 'rule.num_predictions=4', 'meta.num_lifetimes=10',
      'meta.num_envs=4', 'meta.trajectory_steps=5', 'meta.num_updates=2',
      'meta.learning_rate=0.01', 'run.meta_steps=6',
      'run.lifetimes_per_shard=1', 'run.checkpoint_period_steps=2',
      'evaluator.enabled=false') + overrides)


def open_dir(name):
  path = os.path.join(root, f'{devices}_{name}')
  for part in ('metrics', 'checkpoints', 'eta'):
    os.makedirs(os.path.join(path, part), exist_ok=True)
  return path


class Killed(Exception):
  pass


class Failing:
  """A queue whose worker dies when it sends a certain gradient."""

  def __init__(self, queue, left):
    self.queue, self.left = queue, left

  def put(self, *args):
    self.left -= 1
    if self.left < 0:
      raise Killed()
    return self.queue.put(*args)


def run(config, path, stop_step=None, dies_after=None):
  """Runs the learner and all workers in threads; returns the learner."""
  stop = threading.Event()
  queue = gradient_queue.LocalGradientQueue(2 * len(config.shards()))
  bandit = bandit_server.BanditServer(config)
  learner = learner_host.make_learner(
      config, queue, bandit, path, checkpointing.latest(path), stop)
  assert type(learner) is learner_host.HostLearner
  owned = assignment.assign(config)
  assert all(owned), [len(specs) for specs in owned]

  def work(worker_id):
    target = queue
    if dies_after is not None:
      target = Failing(queue, dies_after)
    while True:
      try:
        lifetime_worker.LifetimeWorker(
            config, worker_id, owned[worker_id], learner, bandit, target,
            path, stop).run()
        return
      except Killed:
        target = queue  # The restarted worker has no shards yet.

  threads = [threading.Thread(target=work, args=(i,))
             for i in range(config.run.num_workers)]
  for thread in threads:
    thread.start()
  if stop_step is not None:
    def wait():
      while learner.get_status()['meta_step'] < stop_step:
        stop.wait(0.005)
      stop.set()
    threading.Thread(target=wait, daemon=True).start()
  learner.run()
  for thread in threads:
    thread.join()
  return learner


def digest(learner):
  answer = learner.get_eta()
  return answer['meta_step'], answer['eta'].tobytes().hex()


result = {}
if devices == 1:
  out = local_loop.run(make_config('run.num_workers=2'), open_dir('embedded'))
  result['embedded'] = out['meta_step'], out['eta'].tobytes().hex()
else:
  alone = make_config('run.num_workers=0', 'run.learner_speed=8')
  result['alone'] = digest(run(alone, open_dir('alone')))
  some = make_config('run.num_workers=2', 'run.learner_speed=2')
  learner = run(some, open_dir('resumed'), stop_step=3)
  step = learner.get_status()['meta_step']
  assert 3 <= step < 6, step
  assert learner.get_status()['last_checkpoint'] == step
  result['resumed'] = digest(run(alone, open_dir('resumed')))
  # Two gradients of a worker per meta-step: it dies in the fourth one.
  learner = run(some, open_dir('rolled_back'), dies_after=7)
  result['rolled_back'] = digest(learner)
  status = learner.get_status()
  assert status['rollbacks'] >= 1, status
  books = learner.get_books()
  assert books['received'] == sum(books[name] for name in (
      'applied', 'duplicates', 'stale', 'superseded', 'unapplied')), books
print('RESULT' + json.dumps(result))
os._exit(0)
'''


def _start(root, devices):
  return subprocess.Popen(
      [sys.executable, '-c', _SCRIPT, str(root), str(devices)],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={
          **os.environ, **process_environment.WORKER, 'JAX_PLATFORMS': 'cpu',
          'PYTHONPATH': str(_ROOT), 'XLA_FLAGS': (
              process_environment.WORKER['XLA_FLAGS']
              + f' --xla_force_host_platform_device_count={devices}')})


@pytest.mark.long
@pytest.mark.skipif(
    jax.__version_info__ >= (0, 5), reason='only the pinned JAX promises equal '
    'bits')
def test_eight_devices_of_the_learner_give_the_eta_of_the_embedded_path(
    tmp_path):
  """Without workers; resumed without workers; after a worker has died."""
  results = {}
  for process in [_start(tmp_path, devices) for devices in (8, 1)]:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0 and 'RESULT' in out, err
    results.update(json.loads(out.partition('RESULT')[2]))
  assert results.keys() == {'embedded', 'alone', 'resumed', 'rolled_back'}
  step, eta = results['embedded']
  assert step == 6 and len(set(eta)) > 4
  for name, found in results.items():
    assert found == [step, eta], name


def test_without_learner_speed_the_learner_has_no_worker(tmp_path):
  bandit, stop = learner_testing.FakeBandit(), threading.Event()
  learner = learner_host.make_learner(
      learner_testing.make_config(), gradient_queue.LocalGradientQueue(1),
      bandit, str(tmp_path), None, stop)
  assert type(learner) is meta_learner.MetaLearner


def test_an_error_of_its_worker_ends_the_learner(tmp_path, monkeypatch):
  """Its process then ends, and its supervisor starts it again."""
  def fail(self):
    raise RuntimeError('the device is gone')

  monkeypatch.setattr(lifetime_worker.LifetimeWorker, 'run', fail)
  monkeypatch.setattr(meta_learner, '_LAST_CHECKPOINT_S', 0.)
  run = learner_testing.Run(
      learner_testing.make_config(learner_speed=1.), tmp_path)
  learner = learner_host.HostLearner(
      run.config, run.queue, run.bandit, run.run_dir, None, run.stop)
  with pytest.raises(RuntimeError, match='the device is gone'):
    learner.run()
  run.stop.set()  # Its other thread ends too.
