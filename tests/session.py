"""What a whole session of tests shares, and what it must not leave behind.

One directory of compiled programs serves all processes of a session: those of
pytest and those that tests start. At the end no process, mount or network
interface may be left that was not there at the beginning.
"""

import collections
import contextlib
import ctypes
import gc
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import time

_PR_SET_CHILD_SUBREAPER = 36
# Set by the session that made the directory; its workers find it there.
_DIRECTORY = 'LPG_TEST_DIRECTORY'
# What pytest-xdist and `multiprocessing` keep until their own end.
_KEPT = ('execnet', 'multiprocessing.resource_tracker',
         'multiprocessing.forkserver')
_PATIENCE_S = 10.


def begin() -> str:
  """Makes the session's directory; returns it, or '' if another made it.

  To be called before JAX is imported.
  """
  made = ''
  if _DIRECTORY not in os.environ:
    made = tempfile.mkdtemp(prefix='lpg_tests_')
    os.environ[_DIRECTORY] = made
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR',
                          os.path.join(made, 'compiled'))
  # Programs run for a moment only: compiling is what counts. What is computed
  # is the same function, in other roundings.
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.05')
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
  return made


def collect_seldom() -> None:
  """Lets Python look for unreachable cycles of objects less often.

  A session holds millions of objects, most of JAX's tracing. To look through
  them all, again and again, took a seventh of its time.
  """
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


def end_orderly() -> None:
  """Lets SIGTERM end a session as Ctrl-C does: fixtures stop what they run."""
  def interrupt(number, frame):
    del number, frame
    raise KeyboardInterrupt

  signal.signal(signal.SIGTERM, interrupt)


def stop_ignoring() -> None:
  """Lets what tests start hear the signals that tests send to it.

  A script's `&` and `nohup` make this process ignore some, and what is ignored
  stays so in its children. What is handled does not.
  """
  for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
      signal.signal(number, lambda number, frame: None)


def adopt_orphans() -> None:
  """Processes whose parents have ended become children of this one."""
  ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> dict[int, str]:
  """Processes below this one that run, and their commands."""
  children, commands = collections.defaultdict(list), {}
  for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit():
      with contextlib.suppress(OSError):
        # Behind the name, which may hold anything: state and parent.
        state, parent = (entry / 'stat').read_text(
            errors='replace').rpartition(')')[2].split()[:2]
        command = (entry / 'cmdline').read_text(errors='replace')
        children[int(parent)].append(int(entry.name))
        if state != 'Z':
          commands[int(entry.name)] = command.replace('\0', ' ').strip()
  found, below = {}, list(children[os.getpid()])
  while below:
    pid = below.pop()
    below += children[pid]
    if pid in commands:
      found[pid] = commands[pid]
  return found


def _leftovers() -> dict[int, str]:
  return {pid: command for pid, command in _descendants().items()
          if not any(name in command for name in _KEPT)}


def end_leftovers() -> list[str]:
  """Ends processes that tests have left, and says which."""
  deadline = time.monotonic() + _PATIENCE_S
  while (left := _leftovers()) and time.monotonic() < deadline:
    time.sleep(0.1)
  for pid in left:
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
  return [f'process {pid}: {command[:200]}' for pid, command in left.items()]


def places() -> set[str]:
  """Mounts and network interfaces of the kind that tests make."""
  with open('/proc/self/mounts', encoding='utf-8') as f:
    mounts = [line.split()[1] for line in f]
  parts = ('/run/netns', '/srv', tempfile.gettempdir())
  return ({f'mount {path}' for path in mounts if path.startswith(parts)}
          | {f'interface {name}' for _, name in socket.if_nameindex()
             if name.startswith('lpg')})


def remove(directory: str) -> None:
  if directory:
    shutil.rmtree(directory, ignore_errors=True)
    os.environ.pop(_DIRECTORY, None)


def complain(left: list[str]) -> None:
  for thing in left:
    print(f'\nleft behind by the tests: {thing}', file=sys.stderr)
