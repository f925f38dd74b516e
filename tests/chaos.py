"""Kills, stops and restarts a run at random, and looks what comes out.

  python -m tests.chaos --minutes=60 --seed=1

trains a tiny rule once undisturbed, and then again and again while nodes are
killed (SIGKILL) or stopped (SIGSTOP), one at a time, or the whole program is
killed and resumed. Each run must come to the same eta, bit for bit. The seed
decides what happens to whom and after how long. Prints one JSON object.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil

from lpg_distributed.launch import process_environment
from lpg_distributed.store import eta_file
from tests import waiting

OVERRIDES = (
    'environments=chain_short', 'agents.*.lifetime_env_steps=80',
    'rule.lstm_size=8', 'rule.num_predictions=6', 'meta.num_lifetimes=4',
    'meta.num_envs=4', 'meta.trajectory_steps=5', 'meta.num_updates=2',
    'meta.learning_rate=0.01', 'run.lifetimes_per_shard=2',
    'run.num_workers=2', 'evaluator.enabled=false')
# What is compiled runs for seconds only, and again after each fault.
QUICK_COMPILATION = {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
                     'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                     'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0'}
HANG_S = 30.
# Until a stopped node is killed; it may not have begun to beat.
_STOPPED_S = 360.
_PATIENCE_S = 400.  # for a run to go on after what was done to it


class Run:
  """The program, started as a user would, in a session of its own."""

  def __init__(self, run_dir: pathlib.Path, *arguments: str,
               overrides=OVERRIDES, log: pathlib.Path | None = None):
    self.run_dir = run_dir
    self._log_path = log or pathlib.Path(f'{run_dir}.log')
    self.log = open(self._log_path, 'ab')
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'launch.meta_train', '--preset=demo',
         '--noevaluate', f'--run_dir={run_dir}', '--launch_type=local_mp',
         f'--hang_s={HANG_S}', *(f'--set={o}' for o in overrides),
         *arguments],
        env={**os.environ, **process_environment.with_packages(
            QUICK_COMPILATION)},
        stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

  def nodes(self) -> dict[str, int]:
    """Process ids of the nodes that live, by label."""
    found = {}
    try:
      for file in (self.run_dir / 'tmp' / 'pids').iterdir():
        if file.suffix != '.aside':
          found[file.name.replace('.', '/')] = int(file.read_text())
    except (OSError, ValueError):  # The program begins or ends just now.
      pass
    return {label: pid for label, pid in found.items()
            if waiting.is_alive(pid)}

  def size(self) -> int:
    """Of the metrics, in bytes; it grows with each meta-step."""
    try:
      return (self.run_dir / 'metrics' / 'learner.jsonl').stat().st_size
    except OSError:
      return 0

  def output(self) -> str:
    return self._log_path.read_text(errors='replace')

  def wait_for_step(self) -> None:
    """Waits until one more meta-step is done."""
    size = self.size()
    waiting.until(lambda: self.size() > size, 'a meta-step', _PATIENCE_S,
                  self.process, lambda: self.output()[-3000:])

  def kill_all(self) -> list[int]:
    """The launcher dies; returns who must die with it."""
    children = psutil.Process(self.process.pid).children(recursive=True)
    self.process.kill()
    self.process.wait()
    return [child.pid for child in children]


def eta_of(run_dir: pathlib.Path) -> np.ndarray:
  return eta_file.load(str(run_dir / 'eta.npz')).eta


class Chaos:
  """What is done, to whom, and how often."""

  def __init__(self, directory: pathlib.Path, seed: int, meta_steps: int,
               period_s: float):
    self._directory = directory
    self._random = random.Random(seed)
    self._period_s = period_s
    self._arguments = (f'--meta_steps={meta_steps}',
                       '--set=run.checkpoint_period_steps=20')
    self.counts = collections.Counter()
    self.restarts_s: list[float] = []  # from a fault to the next meta-step

  def reference(self) -> np.ndarray:
    run_dir = self._directory / 'undisturbed'
    run = Run(run_dir, *self._arguments)
    assert run.process.wait(1200) == 0, run.output()
    return eta_of(run_dir)

  def disturb(self, until: float) -> np.ndarray:
    """One run, disturbed while it lasts and until a time; its eta."""
    run_dir = self._directory / f'run_{self.counts["runs"]}'
    run = Run(run_dir, *self._arguments)
    try:
      while run.process.poll() is None:
        if time.monotonic() > until:
          run.process.wait(_PATIENCE_S * 3)
          break
        run = self._one_fault(run)
    finally:
      if run.process.poll() is None:
        waiting.until_gone(run.kill_all())
    assert run.process.returncode == 0, run.output()[-5000:]
    self.counts['runs'] += 1
    eta = eta_of(run_dir)
    shutil.rmtree(run_dir)
    return eta

  def _one_fault(self, run: Run) -> Run:
    if self._random.random() < 0.8:  # Else while it still recovers.
      begin, size = time.monotonic(), run.size()
      waiting.until(
          lambda: run.size() > size or run.process.poll() is not None,
          'a meta-step', _PATIENCE_S)
      self.restarts_s.append(time.monotonic() - begin)
    time.sleep(self._random.expovariate(1 / self._period_s))
    kind = self._random.choices(('kill', 'stop', 'all'), (12, 1, 2))[0]
    if kind == 'all':
      return self._kill_all(run)
    nodes = run.nodes()
    if not nodes or run.process.poll() is not None:
      return run
    label = self._random.choice(sorted(nodes))
    number = signal.SIGKILL if kind == 'kill' else signal.SIGSTOP
    try:
      os.kill(nodes[label], number)
    except ProcessLookupError:
      return run
    self.counts[f'{kind} {label.split("/")[0]}'] += 1
    if kind == 'stop':
      waiting.until(lambda: not waiting.is_alive(nodes[label])
                    or run.process.poll() is not None,
                    f'the end of {label}, which was stopped', _STOPPED_S)
    return run

  def _kill_all(self, run: Run) -> Run:
    if run.process.poll() is not None:
      return run
    waiting.until_gone(run.kill_all())
    self.counts['kill the whole program'] += 1
    return Run(run.run_dir, *self._arguments)


def main(arguments=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--minutes', type=float, default=3.)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--meta_steps', type=int, default=2000)
  parser.add_argument('--period_s', type=float, default=3.)
  options = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as directory:
    chaos = Chaos(pathlib.Path(directory), options.seed, options.meta_steps,
                  options.period_s)
    expected = chaos.reference()
    until = time.monotonic() + 60 * options.minutes
    different = 0
    while True:
      different += not np.array_equal(chaos.disturb(until), expected)
      print(json.dumps(chaos.counts), file=sys.stderr, flush=True)
      if time.monotonic() > until:
        break
  print(json.dumps({
      'seed': options.seed, 'minutes': options.minutes,
      'runs_with_another_eta': different, **chaos.counts,
      'median_s_to_next_step': round(float(np.median(
          chaos.restarts_s or [0.])), 2)}))
  return 1 if different else 0


if __name__ == '__main__':
  sys.exit(main())
