"""Compares the rules of several tables of `lpg mini`.

  lpg mini-table --table=first=runs/mini_first --table=second=runs/mini_second

Without --table, the results that are there are drawn.
"""

from absl import flags

from lpg_distributed.analysis import mini_table
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, mini_table.NAME)
_TABLES = flags.DEFINE_multi_string(
    'table', [], 'LABEL=DIRECTORY of a run of `lpg mini`; many times',
    flag_values=FLAGS)


def main() -> int:
  return experiment_flags.run(mini_table, FLAGS, _TABLES.value,
                              lambda: mini_table.compute(_TABLES.value))


if __name__ == '__main__':
  command.run(main, FLAGS)
