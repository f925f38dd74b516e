"""The leader of a Slurm job.

  python -m lpg_distributed.launch.cluster.slurm.leader JOB_DIRECTORY

is run by the batch script, on the first host of the first group. It starts the
nodes, replaces lost hosts, and shows the progress. It ends the job

- when the work is done
- at a signal, if the job is cancelled, requeued or preempted
- when the time limit is near. Then it requeues the job, if the resource file
  allows it.
"""

import json
import os
import pickle
import shutil
import signal
import sys
import time
from typing import Optional

from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch import stopping
from lpg_distributed.launch.cluster.slurm import commands
from lpg_distributed.launch.cluster.slurm import places
from lpg_distributed.launch.cluster.slurm import steps as steps_lib

_TICK_S = 0.5
_STOP_S = 60.  # seconds that nodes have to end; more than their supervisors'


def log(text: str) -> None:
  """Prints a message with the time."""
  print(time.strftime('%H:%M:%S ') + text, file=sys.stderr, flush=True)


class _JobStopping(stopping.Stopping):
  """Also handles the signal that the job's time limit is near."""

  def __init__(self):
    super().__init__(second_ends=False)
    self.time_is_up = False

  def __enter__(self):
    super().__enter__()
    signal.signal(signal.SIGUSR1, self._handle_time)
    return self

  def _handle_time(self, number, frame):
    del number, frame
    self.time_is_up = True
    self.event.set()


class Leader:
  """The leader of one attempt of the job."""

  def __init__(self, job_dir: str, job, work):
    """Prepares an attempt; `work` is one of the classes in `work.py`."""
    self._job = job
    self._dir = places.new_attempt(job_dir)
    self._steps = steps_lib.Steps(job, job_dir, self._dir)
    self._work = work
    self._next_beat = 0.
    self._began = False

  def run(self) -> int:
    """Runs until the job ends; returns the exit code."""
    with _JobStopping() as interrupt:
      self._beat()
      self._steps.start()
      self._work.begin(self._dir)
      why, again, how = '', False, places.ORDERLY
      before = time.monotonic()
      try:
        while not interrupt.event.wait(_TICK_S):
          now = time.monotonic()
          if now - before > 10 * _TICK_S:  # Suspended, or the files stalled.
            self._steps.excuse_silence(now - before)
          before = now
          self._beat()
          self._steps.read_heartbeats()
          self._work.show(self._dir)
          self._log_hosts()
          done = self._end_of_nodes()
          if done is not None:
            why = done
            how = how if why else places.QUICKLY
            break
          why = self._look_after_lost()
          if why:
            again = self._job['requeue'] and self._steps.any_started()
            if not self._steps.any_started():
              log('no node has begun, so that to begin anew would not help; '
                  'what hindered them stands above')
            break
          if places.STOP in places.names(self._dir):
            break
        self._stop_nodes(how)
      finally:
        self._steps.close()
        self._work.show(self._dir)
        self._work.end()
        if why.startswith('node '):
          self._work.explain()
      if interrupt.time_is_up and not interrupt.signal:
        why, again = 'the job\'s time is nearly over', self._job['requeue']
      elif interrupt.signal:
        log('Slurm, or somebody, has sent '
            f'{signal.Signals(interrupt.signal).name}')
      return self._finish(why, again, interrupt)

  def _finish(self, why: str, again: bool, interrupt) -> int:
    if why or interrupt.event.is_set():
      log((f'{why}; ' if why else '') + self._work.where_it_ends())
    if again and not interrupt.signal:
      log('the job is queued again, and goes on from there')
      try:
        steps_lib.requeue()
        return 0
      except commands.SlurmError as error:
        log(str(error))
    if why:
      return 1
    return interrupt.exit_code

  def _beat(self) -> None:
    now = time.monotonic()
    if now >= self._next_beat:
      self._next_beat = now + 1.
      self._steps.write_leader_file()

  def _log_hosts(self) -> None:
    if not self._began and all(node.host for node in self._steps.nodes):
      self._began = True
      hosts: dict[str, list[str]] = {}
      for node in self._steps.nodes:
        hosts.setdefault(node.host, []).append(node.name)
      for host, names in hosts.items():
        log(f'{host}: {", ".join(names)}')

  def _end_of_nodes(self) -> Optional[str]:
    """Returns why the job ends: '' if the work is done, None if it goes on."""
    for node in self._steps.nodes:
      if node.ended and node.label not in self._job['optional']:
        return f'node {node.name} has ended for good (code {node.ended})'
    last = [node for node in self._steps.nodes
            if node.label in self._job['until']]
    return '' if all(node.ended is not None for node in last) else None

  def _look_after_lost(self) -> str:
    """Moves lost nodes to other hosts; returns why not if it is impossible."""
    lost = self._steps.lost()
    if not lost:
      return ''
    # All nodes of a lost host fall silent within one heartbeat period.
    time.sleep(1.5 * self._job['beat_s'])
    self._beat()
    self._steps.read_heartbeats()
    lost = self._steps.lost()
    if not lost:
      return ''
    hosts = sorted({node.host or '?' for node in lost})
    names = ', '.join(node.name for node in lost)
    log(f'{names} of {", ".join(hosts)} is lost: silent for '
        f'{time.monotonic() - min(n.heard for n in lost):.0f} s')
    hindrance, lines = self._steps.replace_lost(lost)
    for line in lines:
      log(line)
    return (f'{names} cannot be placed on another host, since {hindrance}'
            if hindrance else '')

  def _stop_nodes(self, how: str) -> None:
    self._steps.stop(how)
    deadline = time.monotonic() + _STOP_S
    while self._steps.alive() and time.monotonic() < deadline:
      self._beat()
      time.sleep(_TICK_S / 2)
      self._steps.read_heartbeats()


def main() -> int:
  job_dir = sys.argv[1]
  process_environment.ensure(process_environment.WORKER)
  with open(os.path.join(job_dir, places.JOB_FILE), encoding='utf-8') as f:
    job = json.load(f)
  # The submitting user wrote it into a directory that only this user can write.
  with open(os.path.join(job_dir, 'work.pkl'), 'rb') as f:
    work = pickle.load(f)
  if not work.open():
    return 0
  try:
    code = Leader(job_dir, job, work).run()
    if code == 0:
      code = work.report()
    return code
  finally:
    work.close()
    for attempt in places.attempts(job_dir)[:-3]:
      shutil.rmtree(places.attempt_dir(job_dir, attempt), ignore_errors=True)


if __name__ == '__main__':
  command.run(main, flag_values=None)
