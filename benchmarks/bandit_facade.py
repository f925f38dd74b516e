"""Queries per second that the bandit's HTTP facade answers, and their cost.

  python -m benchmarks.bandit_facade --queries=40000

The facade and a bandit server run in one process, the client in another. Prints
queries per second and the facade's processor time per query. Other work on the
machine changes the latter little.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import time
from typing import Sequence

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import bandit_facade
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import facade_server

_CONNECTIONS = 8
_QUERY = (b'GET /v1/distribution?environment=chain_short HTTP/1.1\r\n'
          b'Host: localhost\r\n\r\n')


def serve(listener) -> None:
  """Serves a new bandit on `listener`, without a limit of requests."""
  config = config_lib.Config()
  bandit = bandit_server.BanditServer(config)
  facade = bandit_facade.BanditFacade(bandit)
  facade.refresh()
  asyncio.run(facade_server.Server(facade.handle, limits=facade_server.Limits(
      requests_per_s=1e9)).run(listener))


def processor_s(pid: int) -> float:
  """Returns the user and system time of a process, in seconds."""
  with open(f'/proc/{pid}/stat', encoding='ascii') as f:
    fields = f.read().rsplit(')', 1)[1].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def ask(connections) -> None:
  """Sends one query on each connection, and waits for all answers."""
  for connection in connections:
    connection.sendall(_QUERY)
  for connection in connections:
    answer = b''
    while not answer.endswith(b'}\n'):
      part = connection.recv(65536)
      if not part:
        raise ConnectionError('the facade has ended')
      answer += part


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--queries', type=int, default=40_000)
  queries = parser.parse_args(argv).queries
  listener = socket.create_server(('127.0.0.1', 0))
  # Spawned: JAX's threads do not survive a fork.
  server = multiprocessing.get_context('spawn').Process(
      target=serve, args=(listener,), daemon=True)
  server.start()
  connections = [socket.create_connection(listener.getsockname(), timeout=60)
                 for _ in range(_CONNECTIONS)]
  ask(connections)  # Waits until the server has started.
  begin_s, begin = processor_s(server.pid), time.monotonic()
  for _ in range(queries // _CONNECTIONS):
    ask(connections)
  seconds = time.monotonic() - begin
  cost_s = processor_s(server.pid) - begin_s
  print(json.dumps({
      'queries': queries, 'queries_per_s': round(queries / seconds),
      'processor_us_per_query': round(1e6 * cost_s / queries, 1),
      # The kernel counts time in ticks; a short run may take less than one.
      'queries_per_processor_s': round(queries / cost_s) if cost_s else None
  }))
  server.terminate()


if __name__ == '__main__':
  main()
