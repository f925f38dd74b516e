"""Environment variables that must be set before a process starts."""

import hashlib
import os
import platform
import resource
import subprocess
import sys
import sysconfig
from typing import Mapping, Optional

import lpg_distributed
from lpg_distributed import files
from lpg_distributed import global_settings

# Variables of workers. One thread each: then sums have the same order
# everywhere, and two workers of one thread are faster than one of two. XLA
# needs NPROC, since its flag alone leaves it a second thread. The allocator
# keeps its memory, in large pages and one arena; docs/performance.md states the
# gain.
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
    # Everywhere but in meta-steps, which use `run.matmul_precision`.
    'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
    # Nodes reach each other directly. gRPC would otherwise send even loopback
    # to the proxy of `http_proxy`; this variable takes precedence.
    'grpc_proxy': '',
}
# Variables of nodes that only serve requests and must not use accelerators.
SERVICE = {**{k: v for k, v in WORKER.items()
              if not k.startswith(('GLIBC', 'MALLOC'))},
           'JAX_PLATFORMS': 'cpu'}
# Variables of commands that start no node here; they may need a proxy.
CLIENT = {k: v for k, v in SERVICE.items() if k != 'grpc_proxy'}

# Settings that override the user's environment. A user or an image that selects
# an accelerator does not mean it for the nodes that must not use it.
_FIRM = ('JAX_PLATFORMS', 'grpc_proxy')
_MARK = 'LPG_ENVIRONMENT_SET'
# Starts JAX's backends, which read XLA_FLAGS and JAX_PLATFORMS.
_PROBE = 'import jax; jax.devices()'
_PROBE_S = 300.
# Importing reserves 1.5 GiB of addresses, and compiling more. A limit of
# addresses says little about memory, since most are never used.
_LEAST_ADDRESSES = 3 * 2 ** 30


def root() -> str:
  """Returns the directory that contains the package."""
  return os.path.dirname(os.path.dirname(
      os.path.abspath(lpg_distributed.__file__)))


def _can_write(path: str) -> bool:
  """Whether a directory is writable, or can be made."""
  while not os.path.lexists(path):
    path = os.path.dirname(path)
  return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _compilation_cache() -> Optional[str]:
  """Returns the cache of compiled programs for this kind of processor.

  None if the user has no writable home. A directory that others can write to is
  no substitute, since the programs in it are executed.
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
  """Parses XLA_FLAGS: flags, or the name of a file with flags."""
  if text.strip() and not text.strip().startswith('-'):
    try:
      text = files.read_text(text.strip())
    except (OSError, ValueError) as error:
      raise global_settings.SettingsError(
          f'XLA_FLAGS is {text!r}, a file that cannot be read ({error}); '
          'allowed: flags as --name=value, or their file') from None
  return text.split()


def _merge_flags(ours: str, users: str) -> str:
  """Returns the user's flags of XLA, and ours that the user has not set."""
  flags = _read_flags(users)
  names = {flag.split('=')[0] for flag in flags}
  return ' '.join(flags + [flag for flag in ours.split()
                           if flag.split('=')[0] not in names])


def _import_paths() -> list[str]:
  """Returns the import paths that other processes need for the package."""
  installed = map(os.path.realpath, sysconfig.get_paths().values())
  return [] if os.path.realpath(root()) in installed else [root()]


def with_packages(variables: Mapping[str, str]) -> dict[str, str]:
  """Returns `variables`, with the user's values, and PYTHONPATH."""
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
  """Returns the environment of this process, updated by `variables`.

  Settings that change numbers are left out; see `global_settings`.
  """
  kept = {k: v for k, v in os.environ.items()
          if k not in global_settings.REMOVED}
  return {**kept, **with_packages(variables)}


def _probe(wanted: Mapping[str, str], variables: Mapping[str, str]) -> None:
  """Refuses user settings under which JAX does not start, in one line.

  JAX aborts at a flag of XLA that it does not know, and fails late where a
  platform has no device. Where the user has set neither, nothing is tried.

  Raises:
    SettingsError: JAX does not start; states the settings and JAX's error.
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
    said = said.split('] ', 1)[-1].strip()  # Without XLA's time and file.
    if said == 'AssertionError':  # JAX reports a missing device this way.
      said = 'there is no such device'
    raise global_settings.SettingsError(
        'JAX does not start with '
        f'{" ".join(f"{k}={v}" for k, v in asked.items())}: {said}')


def check_addresses() -> None:
  """Refuses a limit of addresses under which JAX cannot work.

  Raises:
    SettingsError: the message is one line.
  """
  limit = resource.getrlimit(resource.RLIMIT_AS)[0]
  if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESSES:
    raise global_settings.SettingsError(
        f'a process may have {limit / 2 ** 30:.1f} GiB of addresses here '
        '(ulimit -v, or RLIMIT_AS), and JAX reserves more than it uses; '
        f'allowed: {_LEAST_ADDRESSES / 2 ** 30:g} GiB or more, better '
        'unlimited')


def check_interpreter() -> None:
  """Refuses to go on if Python does not know the path of its own program.

  Nodes run the same interpreter. Python finds no path if it was started under
  a bare name, such as `python`, that is not in PATH.

  Raises:
    SettingsError: the message is one line.
  """
  if not sys.executable:
    raise global_settings.SettingsError(
        'Python does not know the path of its own program, since it was '
        f'started as {sys.orig_argv[0]!r} and PATH is '
        f'{os.environ.get("PATH", "not set")!r}; allowed: a PATH that has it, '
        'or its full path on the command line')


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
  """Restarts the same command if a variable has another value.

  Args:
    variables: values for variables that the user has not set.
    here: whether JAX is used on this host and so must start here.

  Raises:
    SettingsError: JAX does not start under the user's settings or limits, or
      the path of the interpreter is unknown.
  """
  check_interpreter()
  if here:
    check_addresses()
  wanted = environment(variables)
  # The mark is the process number: `exec` keeps it, and children differ.
  if wanted == dict(os.environ) or os.environ.get(_MARK) == str(os.getpid()):
    return
  if here:
    _probe(wanted, variables)
  _warn_of_unused(wanted)
  os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]],
            {**wanted, _MARK: str(os.getpid())})
