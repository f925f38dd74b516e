"""Environment variables that must stand before a process starts."""

import hashlib
import os
import platform
import sys

import lpg_distributed

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
}
# A node that only answers or waits leaves accelerators to the others.
SERVICE = {**{k: v for k, v in WORKER.items()
              if not k.startswith(('GLIBC', 'MALLOC'))},
           'JAX_PLATFORMS': 'cpu'}

# Where a node says these, nobody else does: an image or a user who asks for an
# accelerator does not mean the nodes that leave it to the others.
_FIRM = ('JAX_PLATFORMS',)
_MARK = 'LPG_ENVIRONMENT_SET'


def root() -> str:
  """The directory that holds the package."""
  return os.path.dirname(os.path.dirname(
      os.path.abspath(lpg_distributed.__file__)))


def _compilation_cache() -> str:
  """Where compiled programs are kept; one directory per kind of processor."""
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as f:
      processor = next((line for line in f if line.startswith('flags')), '')
  except OSError:
    processor = ''
  kind = hashlib.sha256((platform.machine() + processor).encode())
  home = os.environ.get('XDG_CACHE_HOME') or os.path.join(
      os.path.expanduser('~'), '.cache')
  return os.path.join(home, 'lpg_distributed', kind.hexdigest()[:16])


def with_packages(variables: dict[str, str]) -> dict[str, str]:
  """`variables`, unless the user set them, and where to import from."""
  variables = {'JAX_COMPILATION_CACHE_DIR': _compilation_cache(), **variables}
  chosen = {k: v if k in _FIRM else os.environ.get(k, v)
            for k, v in variables.items()}
  paths = [root()] + [p for p in os.environ.get('PYTHONPATH', '').split(':')
                      if p]
  return {**chosen, 'PYTHONPATH': ':'.join(dict.fromkeys(paths))}


def ensure(variables: dict[str, str], module: str) -> None:
  """Starts `python -m module` again if a variable is not set yet."""
  wanted = with_packages(variables)
  if os.environ.get(_MARK) or all(os.environ.get(k) == v
                                  for k, v in wanted.items()):
    return
  os.execve(sys.executable, [sys.executable, '-m', module] + sys.argv[1:],
            {**os.environ, **wanted, _MARK: '1'})
