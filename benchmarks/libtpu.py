"""Installs `libtpu`, Google's TPU compiler, in a directory of its own.

It compiles for TPUs on a machine that has none. It is not installed beside JAX:
a JAX that finds it looks for TPUs at every start. JAX's metadata names the
version that fits.
"""

from importlib import metadata
import os
import pathlib
import re
import subprocess
import sys
import tempfile


class LibtpuError(Exception):
  """There is no TPU compiler; the message is one line."""


def _parent() -> pathlib.Path:
  return pathlib.Path(__file__).resolve().parents[1] / '.libtpu'


def requirement() -> str:
  """Returns the requirement for pip, such as `libtpu==0.0.7`."""
  for text in metadata.requires('jax') or ():
    found = re.match(r'(libtpu==[\w.*]+)\s*;.*extra == "tpu"', text)
    if found:
      return found.group(1)
  raise LibtpuError('this JAX names no version of libtpu')


def install() -> str:
  """Returns a directory to import `libtpu` from; installs it once.

  Raises:
    LibtpuError: it is not installed and cannot be.
  """
  wanted = requirement()
  parent = _parent()
  place = parent / re.sub(r'[^\w.]+', '_', wanted)
  if place.is_dir():
    return str(place)
  parent.mkdir(exist_ok=True)
  with tempfile.TemporaryDirectory(dir=parent) as directory:
    target = os.path.join(directory, 'packages')
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps',
         '--disable-pip-version-check', '--target', target, wanted],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
      reason = done.stderr.strip().splitlines()[-1:] or ['no reason given']
      raise LibtpuError(f'{wanted} cannot be installed: {reason[0]}')
    if not place.is_dir():  # Another process may have been faster.
      os.rename(target, place)
  return str(place)


def variables() -> dict[str, str]:
  """Returns environment variables for a process that compiles for TPUs."""
  path = os.environ.get('PYTHONPATH', '')
  return {
      **os.environ, 'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join(p for p in (install(), path) if p),
      # There is no TPU to lock, and no metadata server that describes one.
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_SKIP_MDS_QUERY': '1',
      'TPU_LOG_DIR': 'disabled', 'TPU_STDERR_LOG_LEVEL': '3',
      'TF_CPP_MIN_LOG_LEVEL': '3'}
