"""Compares rules with A2C kind by kind, from several files of Figure 3.

  lpg against-a2c --results=runs/figure3.json --results=runs/figure3_256.json
"""

from absl import flags

from lpg_distributed.analysis import against_a2c
from lpg_distributed.launch import command

FLAGS = flags.FlagValues()
_RESULTS = flags.DEFINE_multi_string(
    'results', [], 'a file of `lpg figure3`; many times', flag_values=FLAGS)
_FIGURE = flags.DEFINE_string(
    'figure', None, 'draws the paired differences there, as .svg or .png',
    flag_values=FLAGS)


def main() -> int:
  command.require(_RESULTS)
  columns = against_a2c.read(_RESULTS.value)
  print('\n'.join(against_a2c.lines(columns)))
  if _FIGURE.value:
    print(f'figure: {against_a2c.draw(columns, _FIGURE.value)}')
  return 0


if __name__ == '__main__':
  command.run(main, FLAGS)
