"""Gives a whole program bad disks, and a worker that is ten times slower.

  python -m tests.hardships [--seconds=30] [NAME ...]

A tiny rule is trained once undisturbed, and then under each hardship. Each run
must go on once it is over, or when it is told to, say what was wrong, and come
to the same eta, bit for bit. The disks are small ones that are mounted for
this, so it takes root. `clock_jump` is run only if it is named: it sets the
machine's clock back and forth for that time. Prints one JSON object.
"""

import argparse
import contextlib
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests import chaos

_DISK = '48m'


def _logs(run: chaos.Run) -> str:
  return run.output() + ''.join(
      path.read_text(errors='replace')
      for path in sorted((run.run_dir / 'logs').rglob('*')) if path.is_file())


@contextlib.contextmanager
def _small_disk(directory: pathlib.Path):
  directory.mkdir()
  subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={_DISK}', 'tmpfs',
                  str(directory)], check=True)
  try:
    yield directory
  finally:
    subprocess.run(['umount', '--lazy', str(directory)], check=True)


class _Ext4:
  """A file system of its own that can break as a real one does."""

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    self._image = directory.with_suffix('.ext4')
    with open(self._image, 'wb') as f:
      f.truncate(256 * 2 ** 20)
    subprocess.run(['mkfs.ext4', '-q', '-F', str(self._image)], check=True)
    directory.mkdir()
    self.mount()

  def mount(self) -> None:
    subprocess.run(['mount', '-o', 'loop,errors=remount-ro', str(self._image),
                    str(self.directory)], check=True)

  def break_now(self) -> None:
    """The kernel finds an error, and lets nobody write from now on."""
    source = subprocess.run(
        ['findmnt', '--noheadings', '--output=SOURCE', str(self.directory)],
        check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    device = pathlib.Path(source).name
    assert device.startswith('loop'), source
    pathlib.Path(f'/sys/fs/ext4/{device}/trigger_fs_error').write_text('tests')
    try:
      (self.directory / 'file').touch()
    except OSError as error:
      assert error.errno == errno.EROFS, error
    else:
      raise AssertionError('the disk can still be written')

  def repair(self) -> None:
    self.unmount()
    checked = subprocess.run(['e2fsck', '-f', '-y', str(self._image)],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert checked.returncode in (0, 1), checked.stdout  # 1: mended.
    self.mount()

  def unmount(self) -> None:
    subprocess.run(['umount', '--lazy', str(self.directory)], check=True)


def _fill(path: pathlib.Path) -> None:
  with open(path, 'wb', buffering=0) as f:
    for size in (2 ** 20, 2 ** 12, 1):
      try:
        while True:
          f.write(bytes(size))
      except OSError as error:
        assert error.errno == errno.ENOSPC, error


def _finish(run: chaos.Run) -> np.ndarray:
  assert run.process.wait(1200) == 0, run.output()[-5000:]
  return chaos.eta_of(run.run_dir)


@contextlib.contextmanager
def _ended(run: chaos.Run):
  """Leaves nothing behind, whatever happens."""
  try:
    yield
  finally:
    if run.process.poll() is None:
      run.kill_all()


@contextlib.contextmanager
def _begun(run: chaos.Run):
  """Until the first steps are done; leaves nothing behind either."""
  with _ended(run):
    for _ in range(3):
      run.wait_for_step()
    yield


def full_disk(directory: pathlib.Path, arguments, seconds: float):
  """The disk of the run directory is full for so long."""
  with _small_disk(directory / 'disk') as disk:
    run = chaos.Run(disk / 'run', *arguments)
    with _begun(run):
      filler = disk / 'filler'
      for _ in range(int(seconds / 5)):  # Something may be removed meanwhile.
        _fill(filler)
        time.sleep(5)
        assert run.process.poll() is None, run.output()[-5000:]
      filler.unlink()
      run.wait_for_step()
      eta = _finish(run)
      log = _logs(run)
      return eta, {'checkpoints_failed': log.count('No space left')}


def broken_disk(directory: pathlib.Path, arguments, seconds: float):
  """The disk is read-only from some time on; it is repaired after the run."""
  disk = _Ext4(directory / 'broken')
  try:
    start = lambda: chaos.Run(disk.directory / 'run', *arguments,
                              log=directory / 'broken.log')
    run = start()
    with _begun(run):
      time.sleep(seconds)
      disk.break_now()
      code = run.process.wait(1200)
    assert code == 1, (code, run.output()[-5000:])
    log = run.output()
    assert log.count('Traceback') == 0, log[-5000:]
    assert 'could not be written: [Errno 30] Read-only' in log, log[-5000:]
    disk.repair()
    again = start()
    with _ended(again):
      eta = _finish(again)
    return eta, {'said': log.count('Read-only file system')}
  finally:
    disk.unmount()


def slow_worker(directory: pathlib.Path, arguments, seconds: float):
  """One worker gets a tenth of its time, in slices of half a second."""
  run = chaos.Run(directory / 'slow', *arguments)
  with _begun(run):
    pid = run.nodes()['lifetime_worker/1']
    begin_size = run.size()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
      os.kill(pid, signal.SIGSTOP)
      time.sleep(0.45)
      os.kill(pid, signal.SIGCONT)
      time.sleep(0.05)
      assert run.process.poll() is None, run.output()[-5000:]
    assert run.size() > begin_size  # It goes on, slowly.
    assert run.nodes()['lifetime_worker/1'] == pid  # It counts as alive.
    eta = _finish(run)
    return eta, {'named_as_slowest': run.output().count('slowest worker 1')}


def _jump(seconds: float) -> None:
  time.clock_settime(time.CLOCK_REALTIME,
                     time.clock_gettime(time.CLOCK_REALTIME) + seconds)


def clock_jump(directory: pathlib.Path, arguments, seconds: float):
  """The machine's time is set back by 5 minutes, then forth by 10."""
  run = chaos.Run(directory / 'clock', *arguments)
  longest_s = {}
  with _begun(run):
    off = 0.
    try:
      for jump in (-300., 600.):
        _jump(jump)
        off += jump
        last, longest, until = time.monotonic(), 0., time.monotonic() + seconds
        while last < until:
          run.wait_for_step()
          longest = max(longest, time.monotonic() - last)
          last = time.monotonic()
        longest_s[f'{jump:+.0f}'] = round(longest, 2)
    finally:
      _jump(-off)
    eta = _finish(run)
    deaths = run.run_dir / 'logs' / 'deaths.jsonl'
    assert not (deaths.exists() and deaths.read_text()), deaths.read_text()
    return eta, {'longest_meta_step_s': longest_s}


HARDSHIPS = {'full_disk': full_disk, 'broken_disk': broken_disk,
             'slow_worker': slow_worker, 'clock_jump': clock_jump}
_ONLY_IF_NAMED = ('clock_jump',)


def main(arguments=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('names', nargs='*', metavar='name',
                      help=', '.join(HARDSHIPS))
  parser.add_argument('--seconds', type=float, default=30.)
  parser.add_argument('--meta_steps', type=int, default=6000)
  options = parser.parse_args(arguments)
  for name in options.names:
    if name not in HARDSHIPS:
      parser.error(f'there is no {name!r}; allowed: {", ".join(HARDSHIPS)}')
  flags = (f'--meta_steps={options.meta_steps}',
           '--set=run.checkpoint_period_steps=20')
  report, different = {}, 0
  with tempfile.TemporaryDirectory() as path:
    directory = pathlib.Path(path)
    undisturbed = chaos.Run(directory / 'undisturbed', *flags)
    with _ended(undisturbed):
      expected = _finish(undisturbed)
    for name in options.names or (
        name for name in HARDSHIPS if name not in _ONLY_IF_NAMED):
      eta, seen = HARDSHIPS[name](directory, flags, options.seconds)
      seen['same_eta'] = bool(np.array_equal(eta, expected))
      different += not seen['same_eta']
      report[name] = seen
      print(json.dumps({name: seen}), file=sys.stderr, flush=True)
  print(json.dumps({'seconds': options.seconds, **report}))
  return 1 if different else 0


if __name__ == '__main__':
  # SIGTERM raises an exception, so that mounts and processes are removed.
  signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
  sys.exit(main())
