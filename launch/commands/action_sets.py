"""Splits the results of Figure 3 by the actions that a layout has.

  lpg action-sets --results=runs/figure3.json --label=LPG --label=A2C
"""

from absl import flags

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import stored
from lpg_distributed.launch import command

FLAGS = flags.FlagValues()
_RESULTS = flags.DEFINE_string(
    'results', f'runs/{figure3.NAME}.json', 'a file of `lpg figure3`',
    flag_values=FLAGS)
_LABEL = flags.DEFINE_multi_string(
    'label', [], 'what is shown; many times; default: everything',
    flag_values=FLAGS)


def main() -> int:
  experiment.one_thread()
  from lpg_distributed.analysis import action_sets  # Brings JAX.
  found = action_sets.by_num_actions(
      *stored.load(_RESULTS.value, figure3.NAME), _LABEL.value)
  print('\n'.join(action_sets.lines(found)))
  return 0


if __name__ == '__main__':
  command.run(main, FLAGS)
