"""Draws the curves of a run, or of a published rule's training.

  lpg plot --run_dir=runs/demo_seed0
  lpg plot --rule=all_kinds_pi --output=runs/all_kinds_pi.svg
"""

from absl import flags

from lpg_distributed.launch import command

_RUN_DIR = flags.DEFINE_string('run_dir', None, 'the run')
_RULE = flags.DEFINE_string('rule', None, 'a published rule, in place of a run')
_OUTPUT = flags.DEFINE_string('output', None, 'the figure; default: within '
                              'the run, or NAME.svg')


def main() -> int:
  from lpg_distributed.analysis import training_curves  # Brings matplotlib.
  if _RULE.value:
    path = _OUTPUT.value or f'{_RULE.value}.svg'
    print(training_curves.draw_published(_RULE.value, path))
    return 0
  command.require(_RUN_DIR)
  print(training_curves.draw(_RUN_DIR.value, _OUTPUT.value))
  return 0


if __name__ == '__main__':
  command.run(main)
