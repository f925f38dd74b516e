"""Draws the curves of a run.

  lpg plot --run_dir=runs/demo_seed0
"""

from absl import flags

from lpg_distributed.launch import command

_RUN_DIR = flags.DEFINE_string('run_dir', None, 'the run')
_OUTPUT = flags.DEFINE_string('output', None, 'the figure; default: within '
                              'the run')


def main() -> int:
  command.require(_RUN_DIR)
  from lpg_distributed.analysis import training_curves  # Brings matplotlib.
  print(training_curves.draw(_RUN_DIR.value, _OUTPUT.value))
  return 0


if __name__ == '__main__':
  command.run(main)
