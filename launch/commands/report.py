"""Writes one HTML page about a run.

  lpg report --run_dir=runs/demo_seed0

The page needs no network. It can be made while the run goes on; with --watch
it is made again every so many seconds.
"""

import contextlib
import time

from absl import flags

from lpg_distributed.launch import command

_RUN_DIR = flags.DEFINE_string('run_dir', None, 'the run')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'the file; default: report.html in the run')
_WATCH = flags.DEFINE_float(
    'watch', 0., 'seconds from one page to the next; 0: one page')


def main() -> int:
  command.require(_RUN_DIR)
  if not 0. <= _WATCH.value < float('inf'):
    raise command.UsageError(f'--watch is {_WATCH.value}; allowed: seconds, '
                             '0 or more')
  from lpg_distributed.analysis import run_page  # Brings matplotlib.
  print(run_page.write(_RUN_DIR.value, _OUTPUT.value))
  with contextlib.suppress(KeyboardInterrupt):
    while _WATCH.value:
      time.sleep(_WATCH.value)
      run_page.write(_RUN_DIR.value, _OUTPUT.value)
  return 0


if __name__ == '__main__':
  command.run(main)
