"""Client of a bandit's facade; it does not trust the facade."""

import contextlib
import http.client
import ipaddress
import math
import os
import socket
import threading
from typing import Any, NamedTuple
import urllib.parse

from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed.launch import command
from lpg_distributed.launch.local import facade_process
from lpg_distributed.store import run_directory

_TIMEOUT_S = 5.  # for the whole answer
_LARGEST_ANSWER = 1 << 24  # bytes
_LARGEST_LAUNCH_FILE = 1 << 20  # bytes
_ARM_FIELDS = ('learning_rate', 'kl_cost', 'mean_return', 'lifetimes',
               'probability')


class NoAnswer(command.UsageError):
  """No server listens at the address, or it is no facade."""


class FacadeAddress(NamedTuple):
  """Address and token of a facade."""
  address: str  # host:port
  token: str  # '' for none


def _is_loopback(address: str) -> bool:
  try:
    host = http.client.HTTPConnection(address).host
    return host == 'localhost' or ipaddress.ip_address(host).is_loopback
  except (ValueError, http.client.HTTPException):
    return False


def find(run_dir: str, token_file: str = '') -> FacadeAddress:
  """Finds the facade of a running run, from its launch.json.

  A run directory may come from another user. So a token is sent to this machine
  only, and only if the user named its file or the run contains it.

  Args:
    run_dir: directory of the run.
    token_file: file that the user named; '': the file in the run.

  Raises:
    FileNotFoundError: the run is not running, or is embedded.
    UsageError: launch.json is damaged or of another user, or the token must
      not be sent to that address.
  """
  path = os.path.join(run_dir, run_directory.LAUNCH_FILE)
  try:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK),
              encoding='utf-8') as f:
      owner = os.fstat(f.fileno()).st_uid
      launch = files.parse_json(f.read(_LARGEST_LAUNCH_FILE))
    address = str(launch['addresses']['bandit_server'])
    own_file = str(launch.get('token_file', ''))
  except FileNotFoundError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise command.UsageError(f'{path} is not readable: {error!r}') from None
  if owner != os.geteuid():
    raise command.UsageError(f'{path} belongs to another user; give --address')
  if not (token_file or own_file):
    return FacadeAddress(address, '')
  if not _is_loopback(address):
    raise command.UsageError(
        f'{path} names {address}, which is not this machine, so no token is '
        'sent there; give --address and --token_file')
  if not token_file and not _contains(run_dir, own_file):
    raise command.UsageError(
        f'the token of the facade is not in {run_dir}; give --token_file')
  return FacadeAddress(
      address, facade_process.read_token(token_file or own_file))


def _contains(directory: str, file: str) -> bool:
  """Returns whether a file is in a directory, with all links followed."""
  return os.path.realpath(file).startswith(
      os.path.join(os.path.realpath(directory), ''))


def get_statistics(facade: FacadeAddress,
                   environment: str = '') -> dict[str, Any]:
  """Requests the bandit's statistics from a facade.

  Args:
    facade: the facade.
    environment: an environment of the run; '' for all.

  Returns:
    The checked result of `BanditServer.get_statistics`.

  Raises:
    NoAnswer: there was no answer within 5 s, or it is not from a facade.
    UsageError: the facade answered with an error.
  """
  path = '/v1/statistics'
  headers = {}
  if facade.token:
    headers['Authorization'] = 'Bearer ' + facade.token
  try:
    if environment:
      path += '?environment=' + urllib.parse.quote(environment)
    status, content = _get(facade.address, path, headers)
    if status != 200:
      message = content['error']['message']
      if not isinstance(message, str):
        raise ValueError('an error without a message')
    else:
      return _check_statistics(content)
  except (OSError, http.client.HTTPException, ValueError, KeyError,
          TypeError, AttributeError, OverflowError) as error:
    raise NoAnswer(f'the bandit at {facade.address} did not answer: '
                   f'{error or type(error).__name__}') from None
  raise command.UsageError(f'{facade.address}: {message[:200]}')


def _get(address: str, path: str, headers) -> tuple[int, Any]:
  """Returns status and content of the answer to a GET, within `_TIMEOUT_S`."""
  connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
  connection.connect()

  def give_up():
    with contextlib.suppress(OSError, AttributeError):  # Already closed.
      connection.sock.shutdown(socket.SHUT_RDWR)

  # A socket's own time limit restarts with every byte.
  timer = threading.Timer(_TIMEOUT_S, give_up)
  timer.daemon = True
  timer.start()
  try:
    connection.request('GET', path, headers=headers)
    answer = connection.getresponse()
    data = answer.read(_LARGEST_ANSWER + 1)
    if len(data) > _LARGEST_ANSWER:
      raise ValueError('the answer is too large')
    return answer.status, files.parse_json(data)
  finally:
    timer.cancel()
    connection.close()


def _check_statistics(content: Any) -> dict[str, Any]:
  """Returns the fields that are shown, after a check of their types.

  Raises:
    KeyError, TypeError, ValueError, AttributeError, OverflowError: a field is
      missing or has another type.
  """
  environments = {}
  for name, arms in content['environments'].items():
    environments[errors.printable(name)] = [
        {field: arm[field] for field in _ARM_FIELDS} for arm in arms]
    if not arms:
      raise ValueError('an environment without arms')
    for arm in arms:
      for field in _ARM_FIELDS:
        if isinstance(arm[field], bool) or not math.isfinite(arm[field]):
          raise ValueError(f'{field} is not a number')
  meta_step = content['meta_step']
  if type(meta_step) is not int:
    raise ValueError('the meta-step is not a number')
  return {'meta_step': meta_step, 'environments': environments}
