"""What came of trainings on Atari: tables and figures of results.

  python -m lpg_distributed.analysis.atari --results=results/lpg
  python -m lpg_distributed.analysis.atari --results=LPG=results/lpg \\
    --results=A2C=results/a2c --output=figures
  python -m lpg_distributed.analysis.atari --results=5=results/five \\
    --results=14=results/fourteen

A directory may have a label before it. Where all labels are numbers, they are
numbers of training environments, and Figure 9's form is drawn too.
"""

import argparse
import os
import sys
from typing import Optional, Sequence

from lpg_distributed import errors
from lpg_distributed.analysis import atari_figures
from lpg_distributed.analysis import atari_summary
from lpg_distributed.analysis import experiment


def main(argv: Optional[Sequence[str]] = None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--results', action='append', required=True,
                      metavar='[LABEL=]DIRECTORY', help='many times')
  parser.add_argument('--output', help='directory of the figures; default: '
                      'figures/ in the first directory of results')
  args = parser.parse_args(argv)
  try:
    groups, numbers = atari_summary.collect(args.results)
    for line in atari_summary.lines_of(groups):
      print(line)
    output = args.output or os.path.join(
        experiment.split(args.results[0])[1], 'figures')
    for path in atari_figures.draw_all(groups, output, numbers):
      print(f'figure: {os.path.relpath(path)}')
  except errors.UserError as error:
    return errors.report(error)
  return 0


if __name__ == '__main__':
  sys.exit(main())
