"""A server of the bandit's facade, for tests."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import bandit_facade
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import facade_server

CONFIG = config_lib.Config(environments=('chain_short', 'tabular_sparse'))


class Served:
  """A facade with its bandit server, on a free port of this machine."""

  def __init__(self, writable=False, token=None, limits=None):
    self.bandit = bandit_server.BanditServer(CONFIG)
    self.bandit.restore(7, None)
    self.bandit.end_step(
        0, [[0, 0, 0, 'chain_short', arm, value]
            for arm, value in ((0, 1.), (2, 0.25))], 7)
    self.facade = bandit_facade.BanditFacade(self.bandit, writable)
    self.facade.refresh()
    self.server = facade_server.Server(self.facade.handle, token, limits)
    listener = socket.create_server(('127.0.0.1', 0))
    self.port = listener.getsockname()[1]
    self._loop = asyncio.new_event_loop()
    self._task = self._loop.create_task(self.server.run(listener))
    self._thread = threading.Thread(target=self._run)
    self._thread.start()

  def _run(self):
    with contextlib.suppress(asyncio.CancelledError):
      self._loop.run_until_complete(self._task)

  def close(self):
    self._loop.call_soon_threadsafe(self._task.cancel)
    self._thread.join(10)
    assert not self._thread.is_alive()

  def ask(self, path, method='GET', body=None, **headers):
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=5)
    connection.request(method, path, body, {
        name.replace('_', '-'): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content

  def send_bytes(self, data, timeout=5):
    """Sends raw bytes; returns what is received until the connection ends."""
    with socket.create_connection(('127.0.0.1', self.port),
                                  timeout=timeout) as connection:
      connection.sendall(data)
      received = b''
      # The server may close the connection before it has read everything.
      with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
          received += chunk
    return received

  def report(self, **fields):
    body = {'id': 'a', 'environment': 'chain_short', 'arm': 1, 'return': 0.5,
            'meta_step': 1}
    return self.ask('/v1/returns', 'POST', json.dumps({**body, **fields}),
                    Content_Type='application/json')
