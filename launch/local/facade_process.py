"""The process of the bandit's facade, which `lpg meta-train` starts.

Its settings are JSON in the variable LPG_FACADE: the descriptor of the
listening socket, the address of the bandit server, the file of the token, and
whether reports are accepted.
"""

import asyncio
import json
import os
import socket
import sys
import threading

from lpg_distributed import files
from lpg_distributed.launch import command

_REFRESH_S = 0.5


def read_token(path: str) -> str:
  """Reads the token from a file that only its owner can read.

  Raises:
    UsageError: the file is missing or readable by others, or the token is too
      short.
  """
  try:
    with files.open_regular(path) as f:
      token = f.read(1024).decode('ascii').strip()
      mode = os.fstat(f.fileno()).st_mode
  except (OSError, UnicodeDecodeError) as error:
    raise command.UsageError(
        f'the token file {path} is not readable: {error}') from None
  if mode & 0o077:
    raise command.UsageError(
        f'the token file {path} is open to others; allowed: chmod 600')
  if len(token) < 16 or not token.isprintable() or ' ' in token:
    raise command.UsageError(
        f'the token in {path} is unfit; allowed: 16 or more characters '
        'without blanks')
  return token


def listen(host: str, port: int) -> socket.socket:
  """Opens a listening socket.

  Raises:
    UsageError: the address cannot be used.
  """
  try:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)
  except OSError as error:
    raise command.UsageError(f'--bandit_host={host} --bandit_port={port} '
                             f'cannot be used: {error.strerror}') from None
  return listener


def main() -> int:
  import courier

  from lpg_distributed.nodes import bandit_facade
  from lpg_distributed.nodes import facade_server
  from lpg_distributed.nodes import heartbeat
  from lpg_distributed.nodes import rpc
  heartbeat.start()
  settings = json.loads(os.environ['LPG_FACADE'])
  stop = threading.Event()
  os.nice(5)  # The run has priority.
  facade = bandit_facade.BanditFacade(
      rpc.Client(courier.Client(settings['bandit'], call_timeout=5.),
                 'the bandit server', stop, patience_s=5., attempt_s=5.),
      settings['writable'])
  threading.Thread(target=facade.refresh_until, args=(stop, _REFRESH_S),
                   daemon=True).start()
  token = settings['token_file'] and read_token(settings['token_file'])
  server = facade_server.Server(facade.handle, token or None)
  asyncio.run(server.run(socket.socket(fileno=settings['socket'])))
  return 0


if __name__ == '__main__':
  sys.exit(main())
