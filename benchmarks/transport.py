"""Messages per second between the nodes, at the paper's size.

Gradients pass through a real Reverb queue, and eta through a real Courier
server, on loopback. The meta-update is timed too. `--step_s` is the time of a
paper-size meta-step (see `benchmarks.program`); with it the share of that time
that messages take is printed. From the repository's root:

  python -m benchmarks.transport [--output=FILE] [--step_s=SECONDS]
"""

import multiprocessing
import os
import sys
import threading
import time
from typing import Any, Callable, Sequence

from benchmarks import arguments
from lpg_distributed.launch import process_environment


def _best(call: Callable[[], Any], repeats: int) -> float:
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    call()
    times.append(time.perf_counter() - start)
  return min(times)


def _serve(capacity: int, size: int, addresses: Any) -> None:
  """Runs a queue and a server of eta; sends both addresses."""
  from lpg_distributed.nodes import gradient_queue
  reverb = gradient_queue.import_reverb()
  import courier
  import numpy as np
  queue = reverb.Server([gradient_queue.make_table(capacity, size)], port=None)
  eta = np.zeros(size, np.float32)
  eta_server = courier.Server('benchmark')
  eta_server.Bind('get_eta', lambda: {'eta': eta})
  eta_server.Start()
  addresses.put((f'localhost:{queue.port}', f'localhost:{eta_server.port}'))
  threading.Event().wait()


def measure(repeats: int) -> dict[str, float]:
  """Returns the seconds of one message and of one update, best of `repeats`."""
  # Import Reverb's libraries first; see `gradient_queue.import_reverb`.
  from lpg_distributed.nodes import gradient_queue
  gradient_queue.import_reverb()
  import courier
  import jax
  import numpy as np

  from lpg_distributed import config as config_lib
  from lpg_distributed import types
  from lpg_distributed.core import meta_update

  config = config_lib.Config()
  state = meta_update.init(config)
  size = state.eta.shape[0]
  metrics = {'loss': [0.] * config.run.lifetimes_per_shard}
  message = types.MetaGradient(0, 0, np.zeros(size, np.float32),
                               config.run.lifetimes_per_shard, metrics)
  num_shards = len(config.shards())
  spawn = multiprocessing.get_context('spawn')
  addresses = spawn.Queue()
  servers = spawn.Process(target=_serve, daemon=True,
                          args=(2 * num_shards, size, addresses))
  servers.start()
  address, eta_address = addresses.get(timeout=120)
  writer = gradient_queue.ReverbGradientWriter(address)
  reader = gradient_queue.ReverbGradientReader(address)

  def gradients():
    for i in range(num_shards):
      if not writer.put(message._replace(sequence=i), 60.):
        raise TimeoutError('the queue took no gradient for a minute')
    for _ in range(num_shards):
      if reader.get(60.) is None:
        raise TimeoutError('the queue gave no gradient for a minute')

  gradients()
  gradient_s = _best(gradients, repeats) / num_shards
  client = courier.Client(eta_address)
  client.get_eta()
  eta_s = _best(lambda: [client.get_eta() for _ in range(20)], repeats) / 20
  servers.kill()

  update = jax.jit(lambda state, total: meta_update.apply(
      config.meta, state, total, np.float32(config.meta.num_lifetimes)))

  def meta_step():
    total = np.zeros(size, np.float32)
    for _ in range(num_shards):
      total += message.gradient_sum
    jax.block_until_ready(update(state, total))

  meta_step()
  return {'gradient_s': gradient_s, 'eta_s': eta_s,
          'meta_update_s': _best(meta_step, repeats),
          'shards': num_shards, 'bytes': 4 * size}


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser(__doc__)
  parser.add_argument('--repeats', type=arguments.positive, default=10)
  parser.add_argument('--workers', type=arguments.positive, default=2)
  parser.add_argument('--step_s', type=float,
                      help='seconds of a meta-step of 960 lifetimes')
  args = parser.parse_args(argv)
  row = measure(args.repeats)
  print(f'gradients in   {1 / row["gradient_s"]:>8.0f} per s\n'
        f'eta out        {1 / row["eta_s"]:>8.0f} per s\n'
        f'meta-update    {1e3 * row["meta_update_s"]:>8.2f} ms')
  row['total_s'] = (row['shards'] * row['gradient_s']
                    + args.workers * row['eta_s'] + row['meta_update_s'])
  print(f'a meta-step of {row["shards"]} shards and {args.workers} workers '
        f'spends {row["total_s"]:.3f} s on them')
  if args.step_s:
    row['share'] = row['total_s'] / args.step_s
    print(f'share of a meta-step of {args.step_s:g} s: {row["share"]:.2%}')
  arguments.write(args, row)
  # Reverb's threads wait without limit for a server that is gone.
  sys.stdout.flush()
  os._exit(0)


if __name__ == '__main__':
  process_environment.ensure(process_environment.SERVICE)
  main()
