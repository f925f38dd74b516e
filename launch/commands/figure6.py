"""Figure 6: measures whether two predictions converge to each other.

  lpg figure6 --run=runs/demo_seed0

Without --run, the results that are there are drawn.
"""

from absl import flags

from lpg_distributed.analysis import figure6
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, figure6.NAME)
experiment_flags.define_rules(FLAGS)
experiment_flags.define_evaluation(FLAGS, updates=400)
experiment_flags.define_integers(FLAGS, worlds=(128, 'grid worlds'))


def _compute():
  return figure6.compute(
      FLAGS.rule, experiment_flags.evaluation_of(FLAGS), FLAGS.average_last,
      FLAGS.seed, FLAGS.worlds)


def main() -> int:
  return experiment_flags.run(figure6, FLAGS, FLAGS.rule, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
