"""Kills a whole run at random instants, resumes it, and compares eta.

  python -m tests.killed_runs --kills=50 --seed=1

The run is the embedded one, so that one SIGKILL takes all nodes at once. It is
forked off a process that has imported everything and computed nothing, and
killed: often just after a checkpoint was completed, or while the next one is
written, and else at any time. At the end eta must be that of a run that was
left alone, bit for bit. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import jax
import numpy as np

from lpg_distributed import config_io
from lpg_distributed import local_loop
from lpg_distributed import presets
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import run_directory
from tests import chaos


def make_config(meta_steps: int):
  return config_io.apply_overrides(presets.demo(), [
      *chaos.OVERRIDES, f'run.meta_steps={meta_steps}',
      'run.checkpoint_period_steps=2', 'run.eta_snapshot_period_steps=3'])


def fork_run(config, path: pathlib.Path) -> int:
  """Starts the run, or goes on with it; returns the process's id."""
  pid = os.fork()
  if pid:
    return pid
  code = 1
  try:
    run = run_directory.RunDirectory.open(str(path), config)
    local_loop.run(config, run.path, checkpointing.latest(run.path))
    code = 0
  finally:
    os._exit(code)


def newest(path: pathlib.Path) -> str:
  """The name of the newest whole checkpoint."""
  names = sorted(p.parent.name for p in path.glob(
      'checkpoints/step_????????/manifest.json'))
  return names[-1] if names else ''


def is_over(pid: int) -> bool:
  """Whether the run has come to its end; an error ends this program."""
  done, status = os.waitpid(pid, os.WNOHANG)
  if done and os.waitstatus_to_exitcode(status):
    raise AssertionError(f'the run ended with status {status}')
  return bool(done)


def kill_once(pid: int, path: pathlib.Path, chance: random.Random) -> bool:
  """Kills the run at a random time; False if it was over before."""
  before, begin = newest(path), time.monotonic()
  limit_s = chance.uniform(0.5, 8.) if chance.random() < 0.2 else 300.
  while newest(path) == before and time.monotonic() - begin < limit_s:
    if is_over(pid):
      return False
    time.sleep(0.001)
  time.sleep(chance.choice((0., chance.expovariate(1 / 0.02),
                            chance.expovariate(1 / 0.2))))
  if is_over(pid):
    return False
  os.kill(pid, signal.SIGKILL)
  os.waitpid(pid, 0)
  return True


def main(arguments=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--kills', type=int, default=10)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(arguments)
  config = make_config(meta_steps=30 + 6 * options.kills)
  chance = random.Random(options.seed)
  with tempfile.TemporaryDirectory() as directory:
    jax.config.update('jax_compilation_cache_dir',
                      os.path.join(directory, 'compiled'))
    whole, parts = (pathlib.Path(directory) / n for n in ('whole', 'parts'))
    assert os.waitstatus_to_exitcode(
        os.waitpid(fork_run(config, whole), 0)[1]) == 0
    kills, steps = 0, []
    while True:
      pid = fork_run(config, parts)
      if kills == options.kills:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        break
      if not kill_once(pid, parts, chance):
        break
      kills += 1
      steps.append(newest(parts)[-4:])
    load = lambda path: eta_file.load(str(path / 'eta.npz'))
    same = (np.array_equal(load(whole).eta, load(parts).eta)
            and load(parts).info['meta_step'] == config.run.meta_steps)
  print(json.dumps({'seed': options.seed, 'kills': kills, 'same_eta': same,
                    'killed_at_checkpoints': steps}))
  return 0 if same else 1


if __name__ == '__main__':
  # JAX has read its variables already.
  jax.config.update('jax_disable_most_optimizations', True)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  sys.exit(main())
