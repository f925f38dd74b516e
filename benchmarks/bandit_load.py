r"""How much queries of a run's bandit slow the run.

  taskset -c 0 lpg meta-train --preset=demo --num_workers=1 \
    --meta_steps=5000 --noevaluate --set=evaluator.enabled=false \
    --run_dir=runs/load
  python -m benchmarks.bandit_load --run_dir=runs/load --cpu=1

The second command queries the facade of the running meta-training in every
other window of time. It compares the learner's meta-steps per second between
windows with and without queries. `--cpu` moves the facade and the client to
another processor, so that the cost of answers does not slow the run itself.
"""

import argparse
import json
import os
import pathlib
import socket
import time
from typing import Sequence

import numpy as np

from benchmarks import bandit_facade
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory

_CONNECTIONS = 8


def _meta_steps(run_dir: str) -> int:
  return sum(1 for _ in loggers.read_metrics(run_dir, 'learner'))


def _window(run_dir: str, seconds: float, rate: float, connections) -> tuple[
    float, float]:
  """Returns meta-steps and queries per second in one window of time.

  Args:
    run_dir: directory of the run.
    seconds: length of the window.
    rate: queries per second to send; 0: none.
    connections: open connections to the facade.
  """
  begin, first, asked = time.monotonic(), _meta_steps(run_dir), 0
  while (now := time.monotonic() - begin) < seconds:
    if asked < rate * now:
      bandit_facade.ask(connections)
      asked += len(connections)
    else:
      time.sleep(0.001)
  return (_meta_steps(run_dir) - first) / now, asked / now


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--run_dir', required=True)
  parser.add_argument('--cpu', type=int,
                      help='processor for the facade and the client')
  parser.add_argument('--rate', type=float, default=2000.,
                      help='queries per second')
  parser.add_argument('--windows', type=int, default=10,
                      help='number of windows with queries, and of those '
                      'without')
  parser.add_argument('--window_s', type=float, default=10.,
                      help='seconds of a window')
  args = parser.parse_args(argv)
  launch = json.loads(pathlib.Path(
      args.run_dir, run_directory.LAUNCH_FILE).read_text())
  host, port = launch['addresses']['bandit_server'].rsplit(':', 1)
  facade = int(pathlib.Path(
      args.run_dir, 'tmp', 'pids', 'bandit_facade').read_text())
  if args.cpu is not None:
    for thread in os.listdir(f'/proc/{facade}/task'):
      os.sched_setaffinity(int(thread), {args.cpu})
    os.sched_setaffinity(0, {args.cpu})
  rates = {0.: [], args.rate: []}
  asked = []
  for _ in range(args.windows):
    for rate, found in rates.items():
      # The facade may have closed the last window's connections as idle.
      connections = [socket.create_connection((host, int(port)), timeout=60)
                     for _ in range(_CONNECTIONS)]
      steps, queries = _window(args.run_dir, args.window_s, rate, connections)
      for connection in connections:
        connection.close()
      found.append(steps)
      if rate:
        asked.append(queries)
  alone, loaded = (np.array(found) for found in rates.values())
  ratios = loaded / alone
  print(json.dumps({
      'queries_per_s': round(float(np.mean(asked))),
      'meta_steps_per_s_alone': round(float(alone.mean()), 3),
      'meta_steps_per_s_asked': round(float(loaded.mean()), 3),
      'asked_over_alone': round(float(loaded.mean() / alone.mean()), 4),
      'standard_error': round(float(
          ratios.std(ddof=1) / np.sqrt(len(ratios))), 4),
      'load_1min': os.getloadavg()[0]}))


if __name__ == '__main__':
  main()
