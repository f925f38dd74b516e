"""Puts together results of `lpg atari`: tables and figures.

  lpg atari-results --results=runs/lpg
  lpg atari-results --results=LPG=runs/lpg --results=A2C=runs/a2c \\
    --output=runs/figures
  lpg atari-results --results=5=runs/five --results=14=runs/fourteen

A directory may have a label before it. Where all labels are numbers, they are
numbers of training environments, and Figure 9 is drawn in place of the curves.
"""

import os

from absl import flags

from lpg_distributed.analysis import experiment
from lpg_distributed.launch import command

FLAGS = flags.FlagValues()
_RESULTS = flags.DEFINE_multi_string(
    'results', [], '[LABEL=]DIRECTORY; many times', flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string(
    'output', None, 'directory of the figures; default: figures/ in the first '
    'directory of results', flag_values=FLAGS)


def main() -> int:
  command.require(_RESULTS)
  # Here, since they bring JAX.
  from lpg_distributed.analysis import atari_figures
  from lpg_distributed.analysis import atari_summary
  groups, numbers = atari_summary.collect(_RESULTS.value)
  print('\n'.join(atari_summary.lines_of(groups)))
  output = _OUTPUT.value or os.path.join(
      experiment.split(_RESULTS.value[0])[1], 'figures')
  for path in atari_figures.draw_all(groups, output, numbers):
    print(f'figure: {os.path.relpath(path)}')
  return 0


if __name__ == '__main__':
  command.run(main, FLAGS)
