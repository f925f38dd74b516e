"""Figure 4: draws the predictions of an unseen grid world.

  lpg figure4 --run=runs/demo_seed0

Without --run, the results that are there are drawn.
"""

from absl import flags

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import figure4
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, figure4.NAME)
experiment_flags.define_rules(FLAGS)
experiment_flags.define_evaluation(FLAGS, updates=500)


def _compute():
  return figure4.compute(
      experiment.only(FLAGS.rule), experiment_flags.evaluation_of(FLAGS),
      FLAGS.average_last, FLAGS.seed)


def main() -> int:
  return experiment_flags.run(figure4, FLAGS, FLAGS.rule, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
