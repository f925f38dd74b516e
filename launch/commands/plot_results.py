"""Draws results of `lpg meta-test`.

  lpg plot-results --results=runs/a,runs/b

Each result is a directory that `lpg meta-test` wrote, or one above several.
Results of one environment share a panel.
"""

import os

from absl import flags

from lpg_distributed.launch import command

_RESULTS = flags.DEFINE_list('results', [], 'directories of results')
_OUTPUT = flags.DEFINE_string('output', 'runs/meta_test.png', 'the figure')


def main() -> int:
  if not _RESULTS.value:
    raise command.UsageError('--results is missing; allowed: directories of '
                             'results, as runs/meta_test')
  from lpg_distributed.meta_testing import learning_curves  # Brings matplotlib.
  from lpg_distributed.meta_testing import results
  from lpg_distributed.meta_testing import summary
  paths = []
  for root in _RESULTS.value:
    below = sorted(parent for parent, _, names in os.walk(root)
                   if results.FILE in names)
    if not below:
      raise command.UsageError(f'{root} has no results')
    paths += below
  for path in paths:
    print('\n'.join(summary.lines(path)))
  read = [results.read(path) for path in paths]
  print('figure: ' + learning_curves.draw(read, _OUTPUT.value))
  return 0


if __name__ == '__main__':
  command.run(main)
