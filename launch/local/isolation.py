"""Moves the program into its own network, so that its ports are private.

Courier executes any call, and Reverb serves any request, both without
authentication and on all interfaces. So on Linux the launcher moves itself, and
with it all nodes, into a network namespace with only a loopback interface. Its
ports cannot be reached from the network, by other users, or by other programs
of the same user. Sockets that were opened before stay in the old network; the
bandit's facade gets its listening socket in this way.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from typing import Optional

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def isolate() -> Optional[str]:
  """Moves this process to a new network; call it while there is one thread.

  A process that may create network namespaces (root) changes nothing else.
  Otherwise a user namespace is created too, in which the user keeps the same
  number and has no rights of root.

  Returns:
    None, or the reason why it is not possible. Then nothing has changed.
  """
  child = os.fork()  # Tries it in a child, whose failure has no effect here.
  if child == 0:
    code = errno.EPERM
    try:
      _leave()
      code = 0
    except OSError as error:
      code = error.errno or code
    finally:
      os._exit(code)
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  if code:
    return os.strerror(code) if code > 0 else 'the kernel ended the attempt'
  _leave()
  return None


def _leave() -> None:
  libc = ctypes.CDLL(None, use_errno=True)
  if libc.unshare(_CLONE_NEWNET) != 0:
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
      raise OSError(ctypes.get_errno(), 'no namespaces')
    with contextlib.suppress(OSError):
      _write('/proc/self/setgroups', 'deny')
    _write('/proc/self/uid_map', f'{user} {user} 1')
    _write('/proc/self/gid_map', f'{group} {group} 1')
    _loopback_up()
    _drop_capabilities(libc)
  else:
    _loopback_up()


def _drop_capabilities(libc) -> None:
  """Drops all rights of root within the user namespace.

  The creator of a user namespace has all of them there. None is needed once the
  loopback interface is up.
  """
  for capability in range(64):
    if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
      break  # The kernel has no more capabilities.
  libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
  header = struct.pack('Ii', _CAPABILITY_VERSION_3, 0)
  if libc.capset(header, struct.pack('6I', *[0] * 6)) != 0:
    raise OSError(ctypes.get_errno(), 'capabilities cannot be given up')


def _write(path: str, text: str) -> None:
  with open(path, 'w', encoding='ascii') as f:
    f.write(text)


def _loopback_up() -> None:
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    request = struct.pack('16sh14x', b'lo', 0)
    answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
    flags = struct.unpack('16sh14x', answer)[1]
    fcntl.ioctl(any_socket, _SIOCSIFFLAGS,
                struct.pack('16sh14x', b'lo', flags | _IFF_UP))
