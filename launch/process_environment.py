"""Environment variables that must stand before a process starts."""

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
from typing import Mapping, Optional

import lpg_distributed
from lpg_distributed import global_settings

# One thread per worker (NPROC is XLA's; its flag alone leaves it a second one):
# with it, sums are in the same order everywhere, and two workers of one
# thread are faster than one of two. The allocator keeps its memory, in large
# pages and in one arena: docs/performance.md has what that gains.
WORKER = {
    'NPROC': '1',
    'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false',
    'OMP_NUM_THREADS': '1',
    'OPENBLAS_NUM_THREADS': '1',
    'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
    'MALLOC_ARENA_MAX': '1',
    'MALLOC_MMAP_MAX_': '0',
    'MALLOC_TRIM_THRESHOLD_': '10000000000',
    'TF_CPP_MIN_LOG_LEVEL': '3',
    # Of what is not a meta-step, as meta-testing: float32 on accelerators too.
    # A meta-step's is `run.matmul_precision`.
    'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
    # Nodes reach each other directly. gRPC would otherwise send even loopback
    # to the proxy of `http_proxy`; this variable goes first.
    'grpc_proxy': '',
}
# A node that only answers or waits leaves accelerators to the others.
SERVICE = {**{k: v for k, v in WORKER.items()
              if not k.startswith(('GLIBC', 'MALLOC'))},
           'JAX_PLATFORMS': 'cpu'}
# A command that starts no node may need a proxy.
CLIENT = {k: v for k, v in SERVICE.items() if k != 'grpc_proxy'}

# Node settings that override the user's environment: an image or a user who
# asks for an accelerator does not mean the nodes that leave it to the others.
_FIRM = ('JAX_PLATFORMS', 'grpc_proxy')
_MARK = 'LPG_ENVIRONMENT_SET'
# Starts JAX's backends, which read XLA_FLAGS and JAX_PLATFORMS.
_PROBE = 'import jax; jax.devices()'
_PROBE_S = 300.


def root() -> str:
  """The directory that holds the package."""
  return os.path.dirname(os.path.dirname(
      os.path.abspath(lpg_distributed.__file__)))


def _can_write(path: str) -> bool:
  """Whether a directory is writable, or can be made."""
  while not os.path.lexists(path):
    path = os.path.dirname(path)
  return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _compilation_cache() -> Optional[str]:
  """Where compiled programs are kept; one directory per kind of processor.

  None if the user has no home, or none that can be written. A directory that
  others can write is no substitute: what is compiled there is run.
  """
  home = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(home):
    home = os.path.expanduser('~') if os.environ.get('HOME', 'unset') else ''
    home = os.path.join(home, '.cache')
  if not os.path.isabs(home) or not _can_write(
      os.path.join(home, 'lpg_distributed')):
    return None
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as f:
      processor = next((line for line in f if line.startswith('flags')), '')
  except OSError:
    processor = ''
  kind = hashlib.sha256((platform.machine() + processor).encode())
  return os.path.join(home, 'lpg_distributed', kind.hexdigest()[:16])


def _read_flags(text: str) -> list[str]:
  """Flags of XLA; a text that does not begin with a dash names their file."""
  if text.strip() and not text.strip().startswith('-'):
    try:
      with open(text.strip(), encoding='utf-8') as f:
        text = f.read()
    except (OSError, ValueError) as error:
      raise global_settings.SettingsError(
          f'XLA_FLAGS is {text!r}, a file that cannot be read ({error}); '
          'allowed: flags as --name=value, or their file') from None
  return text.split()


def _merge_flags(ours: str, users: str) -> str:
  """The user's flags of XLA, and those of ours that he has not set."""
  flags = _read_flags(users)
  names = {flag.split('=')[0] for flag in flags}
  return ' '.join(flags + [flag for flag in ours.split()
                           if flag.split('=')[0] not in names])


def _import_paths() -> list[str]:
  """Where other processes find the package; none if it is installed."""
  installed = map(os.path.realpath, sysconfig.get_paths().values())
  return [] if os.path.realpath(root()) in installed else [root()]


def with_packages(variables: Mapping[str, str]) -> dict[str, str]:
  """`variables`, unless the user set them, and where to import from."""
  cache = _compilation_cache()
  if cache:
    variables = {'JAX_COMPILATION_CACHE_DIR': cache, **variables}
  chosen = {k: v if k in _FIRM else os.environ.get(k, v)
            for k, v in variables.items()}
  if 'XLA_FLAGS' in variables:
    chosen['XLA_FLAGS'] = _merge_flags(variables['XLA_FLAGS'],
                                       os.environ.get('XLA_FLAGS', ''))
  paths = _import_paths() + [
      path for path in os.environ.get('PYTHONPATH', '').split(':') if path]
  return {**chosen, 'PYTHONPATH': ':'.join(dict.fromkeys(paths))}


def environment(variables: Mapping[str, str]) -> dict[str, str]:
  """The whole environment of a process: of this one, with `variables`.

  Settings that change numbers are left out; see `global_settings`.
  """
  kept = {k: v for k, v in os.environ.items()
          if k not in global_settings.REMOVED}
  return {**kept, **with_packages(variables)}


def _probe(wanted: Mapping[str, str], variables: Mapping[str, str]) -> None:
  """Refuses settings of the user's that end JAX, in one line.

  JAX aborts at a flag of XLA that it does not know, and fails late where a
  platform has no device. Where the user has set neither, nothing is tried.

  Raises:
    SettingsError: what was set, and what JAX says.
  """
  ours = variables.get('XLA_FLAGS', '').split()
  asked = {
      'XLA_FLAGS': ' '.join(flag for flag
                            in wanted.get('XLA_FLAGS', '').split()
                            if flag not in ours),
      **{name: wanted.get(name, '') for name
         in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')
         if wanted.get(name, '') not in ('', 'cpu')}}
  asked = {name: value for name, value in asked.items() if value}
  if not asked:
    return
  try:
    done = subprocess.run([sys.executable, '-c', _PROBE], env=dict(wanted),
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors='replace', check=False,
                          timeout=_PROBE_S)
  except subprocess.TimeoutExpired:
    code, lines = 1, [f'no answer within {_PROBE_S:g} s']
  else:
    code, lines = done.returncode, done.stderr.strip().splitlines()
  if code:
    said = lines[-1] if lines else f'code {code}'
    said = said.split('] ', 1)[-1].strip()  # Without XLA's time and place.
    if said == 'AssertionError':  # JAX's own way to say it.
      said = 'there is no such device'
    raise global_settings.SettingsError(
        'JAX does not start with '
        f'{" ".join(f"{k}={v}" for k, v in asked.items())}: {said}')


def _warn_of_unused(wanted: Mapping[str, str]) -> None:
  removed = [f'{name}={os.environ[name]}' for name in global_settings.REMOVED
             if name in os.environ]
  if removed:
    print('warning: not used, since it changes what is computed, or ends it: '
          f'{", ".join(removed)}', file=sys.stderr, flush=True)
  if 'JAX_COMPILATION_CACHE_DIR' not in wanted:
    print('warning: no home directory that can be written: each process '
          'compiles its programs anew; JAX_COMPILATION_CACHE_DIR names a '
          'place for them', file=sys.stderr, flush=True)


def ensure(variables: Mapping[str, str], here: bool = True) -> None:
  """Starts the same command again if a variable is not as it must be.

  Args:
    variables: what must be set, unless the user has set it.
    here: whether JAX is used on this host, so that it must start here.

  Raises:
    SettingsError: JAX does not start under the user's settings.
  """
  wanted = environment(variables)
  # The mark of this process: `exec` keeps its number, children have others.
  if wanted == dict(os.environ) or os.environ.get(_MARK) == str(os.getpid()):
    return
  if here:
    _probe(wanted, variables)
  _warn_of_unused(wanted)
  os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]],
            {**wanted, _MARK: str(os.getpid())})
