"""Ports, devices and files of an agent, without Slurm."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from lpg_distributed.launch import process_environment
from lpg_distributed.launch.cluster.slurm import agent
from lpg_distributed.launch.cluster.slurm import places
from tests import waiting

SLEEPER = """import signal, sys, time
signal.signal(signal.SIGTERM, {handler})
time.sleep(400)
"""


def test_ports_are_free_and_within_the_range():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    assert agent.free_port([port, port + 5], 0) != port
    assert agent.free_port([port, port + 5], 1) in range(port + 1, port + 6)
    with pytest.raises(OSError, match='is free'):
      agent.free_port([port, port], 3)
    assert agent.free_port([], 0) not in (0, port)


@pytest.mark.parametrize('visible, gpus, local, expected', [
    ('0,1,2,3', 1, 2, '2'), ('4,5,6,7', 2, 1, '6,7'), ('0,1', 1, 3, '1'),
    ('0', 1, 0, None), ('', 1, 0, None), ('0,1', 0, 1, None)])
def test_each_node_has_its_own_gpus(
    monkeypatch, visible, gpus, local, expected):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
  assert agent.accelerators(gpus, local).get('CUDA_VISIBLE_DEVICES'
                                             ) == expected


class Job:
  """A job of one node: its agent is a process, and its leader is the test."""

  def __init__(self, directory, requeue=True):
    self.dir = str(directory)
    places.write(os.path.join(self.dir, places.JOB_FILE), {
        'groups': [{'nodes': [['worker', 0]], 'gpus': 0}],
        'addresses': {'worker': ['courier']}, 'ports': [], 'services': [],
        'optional': [], 'logs': os.path.join(self.dir, 'logs'),
        'entry': 'sleeper', 'arguments': [], 'beat_s': 0.1, 'hang_s': 4.,
        'max_restarts': 0, 'requeue': requeue})
    self.attempt = places.new_attempt(self.dir)
    bin_dir = os.path.join(self.dir, 'bin')
    os.makedirs(bin_dir)
    for name in ('scontrol', 'scancel'):
      path = os.path.join(bin_dir, name)
      with open(path, 'w', encoding='utf-8') as f:
        f.write(f'#!/bin/sh\necho {name} "$@" >> {self.dir}/asked\n')
      os.chmod(path, 0o755)
    self._leading = threading.Event()
    self._published = {}
    self._thread = threading.Thread(target=self._lead, daemon=True)

  def start(self, handler='lambda number, frame: sys.exit()'):
    """Starts the agent; `handler` is the node's handler of SIGTERM."""
    with open(os.path.join(self.dir, 'sleeper.py'), 'w',
              encoding='utf-8') as f:
      f.write(SLEEPER.format(handler=handler))
    self._thread.start()
    return subprocess.Popen(
        [sys.executable, '-S', '-I', agent.__file__, self.dir, '0'],
        env={**os.environ, **process_environment.with_packages({}),
             'PYTHONPATH': self.dir, 'LPG_ATTEMPT': '0', 'SLURM_JOB_ID': '7',
             'SLURM_LOCALID': '0', 'LPG_SLOTS': '3',
             'PATH': f'{self.dir}/bin:{os.environ["PATH"]}'})

  def _lead(self):
    beats = 0
    while not self._leading.wait(0.2):
      beats += 1
      places.write_in_place(os.path.join(self.attempt, places.LEADER),
                            {'beats': beats, **self._published})

  def publish(self, **fields):
    self._published = fields

  def stop_beats(self):
    self._leading.set()

  def wait_for_beats(self, count=3):
    def beat():
      beat = places.read(os.path.join(self.attempt, 'beats', 'worker.0'))
      return beat if beat and beat['beats'] >= count else None

    return waiting.until(beat, f'{count} beats')

  def log(self):
    with open(os.path.join(self.dir, 'logs', 'worker', '0'),
              encoding='utf-8') as f:
      return f.read()


@pytest.fixture
def job(tmp_path):
  job = Job(tmp_path)
  yield job
  job.stop_beats()


def test_an_agent_publishes_beats_and_ends_when_told(job):
  process = job.start()
  beat = job.wait_for_beats()
  assert (beat['life'], beat['code'], beat['pid']) == (0, None, process.pid)
  assert beat['slot'] == 3
  with open(os.path.join(job.attempt, 'addresses', 'worker.0.courier'),
            encoding='utf-8') as f:
    assert json.load(f).count(':') == 1
  job.publish(stop=places.ORDERLY)
  assert process.wait(waiting.PATIENCE_S) == 0
  assert job.wait_for_beats()['code'] == 0
  assert 'ends: all nodes end' in job.log()


def test_a_node_that_was_placed_elsewhere_ends(job):
  process = job.start()
  job.wait_for_beats()
  job.publish(lives={'worker.0': 1})
  assert process.wait(waiting.PATIENCE_S) == 0
  assert 'placed on another host' in job.log()


def test_a_node_of_an_older_attempt_ends(job):
  process = job.start()
  job.wait_for_beats()
  places.new_attempt(job.dir)
  assert process.wait(waiting.PATIENCE_S) == 0
  assert 'the job was started anew' in job.log()


@pytest.mark.parametrize('requeue, asked', [
    (True, 'scontrol requeue 7\n'), (False, 'scancel 7\n')])
def test_agents_without_a_leader_requeue_or_cancel_the_job_once(
    tmp_path, requeue, asked):
  job = Job(tmp_path, requeue)
  process = job.start()
  job.wait_for_beats()
  job.stop_beats()
  begin = time.monotonic()
  assert process.wait(waiting.PATIENCE_S) == 0
  assert time.monotonic() - begin > 7.  # Twice `hang_s`, less a beat.
  assert (tmp_path / 'asked').read_text() == asked


def test_a_node_that_does_not_end_is_killed_when_nothing_is_to_be_saved(job):
  process = job.start('signal.SIG_IGN')
  job.wait_for_beats()
  job.publish(stop=places.QUICKLY)
  assert process.wait(waiting.PATIENCE_S) == 0


def test_a_heartbeat_that_cannot_be_written_leaves_the_last_one(
    tmp_path, monkeypatch):
  path = str(tmp_path / 'beat')
  places.write_in_place(path, {'beats': 1000})
  places.write_in_place(path, {'beats': 2})
  assert places.read(path) == {'beats': 2}

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'write', full)
  with pytest.raises(OSError):
    places.write_in_place(path, {'beats': 3})
  assert places.read(path) == {'beats': 2}
