"""Throughput of learner and queue with many workers, at the paper's size.

A real Reverb queue and a real learner behind Courier run in a process each. 1
to 64 sources replace the workers and compute nothing: each gets eta, sends one
gradient, and repeats. So learner and queue are saturated. From the repository's
root:

  python -m benchmarks.scale [--output=FILE] [--sources=1,8,64] [--seconds=5]

All processes share one machine. So the processor time per message of learner,
queue and sources is printed too. Its inverse is the number of messages per
second that each would reach on a processor of its own.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from typing import Any, Sequence

from benchmarks import arguments
from lpg_distributed.launch import process_environment

_SOURCES = (1, 2, 4, 8, 16, 32, 64)
_WARM_UP_S = 2.
_LIFETIMES = 16  # lifetimes per shard, the default


def _make_config(num_sources: int):
  from lpg_distributed import config as config_lib
  return config_lib.Config(
      environments=('chain_short',),
      meta=config_lib.MetaConfig(num_lifetimes=_LIFETIMES * num_sources),
      run=config_lib.RunConfig(
          num_workers=num_sources, lifetimes_per_shard=_LIFETIMES,
          checkpoint_period_steps=10 ** 9, checkpoint_period_s=1e9))


def _serve_queue(num_sources: int, port: Any) -> None:
  from lpg_distributed.core import rule_vector
  from lpg_distributed.nodes import gradient_queue
  config = _make_config(num_sources)
  reverb = gradient_queue.import_reverb()
  server = reverb.Server([gradient_queue.make_table(
      2 * num_sources, rule_vector.size(config.rule))], port=None)
  port.put(server.port)
  threading.Event().wait()


def _serve_learner(num_sources: int, queue_port: int, run_dir: str,
                   port: Any) -> None:
  from lpg_distributed.nodes import gradient_queue
  gradient_queue.import_reverb()
  import courier

  from lpg_distributed.nodes import bandit_server
  from lpg_distributed.nodes import meta_learner
  config = _make_config(num_sources)
  learner = meta_learner.MetaLearner(
      config, gradient_queue.ReverbGradientReader(f'localhost:{queue_port}'),
      bandit_server.BanditServer(config), run_dir, None, threading.Event())
  server = courier.Server('learner', thread_pool_size=num_sources + 16)
  server.Bind('get_update', learner.get_update)
  server.Start()
  port.put(server.port)
  learner.run()


def _make_message(shard_id: int, size: int):
  import numpy as np

  from lpg_distributed import types
  metrics: dict[str, Any] = dict.fromkeys((
      'final_return', 'age', 'window_return_sum', 'window_episodes', 'loss',
      'policy_entropy', 'y_entropy', 'kl', 'pi_hat_square', 'y_hat_square'),
      [0.123456789] * _LIFETIMES)
  metrics.update(dict.fromkeys((
      'ended', 'reported', 'collapsed', 'not_finite'), [False] * _LIFETIMES))
  metrics.update(arm=[0] * _LIFETIMES, gradient_not_finite=False)
  return types.MetaGradient(0, shard_id, np.full(size, 1e-3, np.float32),
                            _LIFETIMES, metrics)


def _run_sources(ids: Sequence[int], num_sources: int, queue_port: int,
                 learner_port: int, results: Any, done: Any) -> None:
  """Runs each source in a thread, until `done`.

  Then sends rows to `results`: the meta-step, the time at which the source had
  sent its gradient, and the time at which it received the next eta.
  """
  from lpg_distributed.nodes import gradient_queue
  gradient_queue.import_reverb()
  import courier

  from lpg_distributed.core import rule_vector
  from lpg_distributed.nodes import rpc
  size = rule_vector.size(_make_config(num_sources).rule)
  seen: list[tuple[int, float, float]] = []

  def work(source):
    learner = courier.Client(f'localhost:{learner_port}', **rpc.CLIENT_KWARGS)
    writer = gradient_queue.ReverbGradientWriter(f'localhost:{queue_port}')
    message = _make_message(source, size)
    epoch = learner.get_update(source, 0, 0, 5.)['epoch']
    step, put = 0, 0.
    while not done.is_set():
      update = learner.get_update(source, epoch, step, 5.)
      if not update['reached']:
        continue
      if step:
        seen.append((step, put, time.monotonic()))
      message = message._replace(meta_step=step, epoch=epoch,
                                 writer=source + 1, sequence=step)
      while not writer.put(message, 5.) and not done.is_set():
        pass
      put, step = time.monotonic(), step + 1

  for source in ids:
    threading.Thread(target=work, args=(source,), daemon=True).start()
  done.wait()
  results.put(list(seen))
  results.close()
  results.join_thread()
  os._exit(0)


def measure(num_sources: int, seconds: float) -> dict[str, float]:
  """Measures one number of sources for `seconds`; returns a row, see `_HEAD`.

  `eta_ms` is the time from the last gradient of a meta-step to the arrival of
  the next eta at a source, the median; `eta_ms_95` is the 95th percentile.

  Raises:
    TimeoutError: no meta-step ended in the time.
  """
  import psutil
  spawn = multiprocessing.get_context('spawn')
  ports, results, done = spawn.Queue(), spawn.Queue(), spawn.Event()
  started = []

  def start(function, *args):
    started.append(spawn.Process(target=function, args=args, daemon=True))
    started[-1].start()
    return psutil.Process(started[-1].pid)

  with tempfile.TemporaryDirectory() as run_dir:
    for name in ('metrics', 'checkpoints', 'eta'):
      os.mkdir(os.path.join(run_dir, name))
    try:
      queue = start(_serve_queue, num_sources, ports)
      queue_port = ports.get(timeout=120)
      learner = start(_serve_learner, num_sources, queue_port, run_dir, ports)
      learner_port = ports.get(timeout=120)
      groups = [list(range(i, num_sources, 2)) for i in range(2)]
      sources = [start(_run_sources, ids, num_sources, queue_port,
                       learner_port, results, done) for ids in groups if ids]
      path = os.path.join(run_dir, 'metrics', 'learner.jsonl')
      while not os.path.exists(path) or not os.path.getsize(path):
        time.sleep(0.1)  # The first step compiles the learner's update.
      time.sleep(_WARM_UP_S)
      parts = {'learner': [learner], 'queue': [queue], 'source': sources}
      before = {name: _cpu_s(some) for name, some in parts.items()}
      begin = time.monotonic()
      time.sleep(seconds)
      end = time.monotonic()
      cpu = {name: _cpu_s(some) - before[name]
             for name, some in parts.items()}
      memory = {name: sum(p.memory_info().rss for p in some) / 2 ** 20
                for name, some in parts.items()}
      done.set()
      seen = [row for _ in sources for row in results.get(timeout=60)]
    finally:
      for process in started:
        process.kill()
  rows = [row for row in seen if begin <= row[2] < end]
  if not rows:
    raise TimeoutError(f'no meta-step in {seconds:g} s')
  last_put: dict[int, float] = {}
  for step, put, _ in seen:
    last_put[step] = max(put, last_put.get(step, 0.))
  waits = sorted(1e3 * (came - last_put[step]) for step, _, came in rows)
  return {
      'sources': num_sources, 'messages_per_s': len(rows) / (end - begin),
      'meta_steps_per_s': len(rows) / num_sources / (end - begin),
      'eta_ms': statistics.median(waits),
      'eta_ms_95': waits[int(0.95 * (len(waits) - 1))],
      **{f'{name}_us': 1e6 * used / len(rows) for name, used in cpu.items()},
      'learner_mib': memory['learner'], 'queue_mib': memory['queue']}


def _cpu_s(processes) -> float:
  times = [process.cpu_times() for process in processes]
  return sum(t.user + t.system for t in times)


_HEAD = ('sources', 'messages_per_s', 'of_one', 'meta_steps_per_s', 'eta_ms',
         'eta_ms_95', 'learner_us', 'queue_us', 'source_us', 'learner_mib',
         'queue_mib')


def _parse_sources(text: str) -> tuple[int, ...]:
  return tuple(arguments.positive(part) for part in text.split(','))


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser(__doc__)
  parser.add_argument('--sources', type=_parse_sources, default=_SOURCES)
  parser.add_argument('--seconds', type=float, default=5.)
  args = parser.parse_args(argv)
  print('| ' + ' | '.join(_HEAD) + ' |\n' + '|---' * len(_HEAD) + '|')
  rows: list[dict[str, float]] = []
  for num_sources in args.sources:
    row = measure(num_sources, args.seconds)
    rows.append(row)
    # Relative to the first row, so that the machine's speed cancels out.
    row['of_one'] = row['messages_per_s'] / rows[0]['messages_per_s']
    print('| ' + ' | '.join(
        f'{row[name]:.2f}' if row[name] < 10 and name != 'sources'
        else f'{row[name]:.0f}' for name in _HEAD) + ' |', flush=True)
  arguments.write(args, rows)
  sys.stdout.flush()
  os._exit(0)


if __name__ == '__main__':
  process_environment.ensure(process_environment.SERVICE)
  main()
