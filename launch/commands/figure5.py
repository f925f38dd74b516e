"""Figure 5: reads true values at several discounts from the predictions.

  lpg figure5 --run=runs/demo_seed0

Without --run, the results that are there are drawn.
"""

from absl import flags

from lpg_distributed.analysis import figure5
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, figure5.NAME)
experiment_flags.define_rules(FLAGS)
experiment_flags.define_evaluation(FLAGS, updates=400)
experiment_flags.define_integers(
    FLAGS,
    train_worlds=(40, 'grid worlds that the regression is trained on'),
    test_worlds=(10, 'grid worlds whose errors are reported'),
    steps=(1000, 'steps of the regression\'s training'))


def _compute():
  return figure5.compute(
      FLAGS.rule, experiment_flags.evaluation_of(FLAGS), FLAGS.average_last,
      FLAGS.seed, train_worlds=FLAGS.train_worlds,
      test_worlds=FLAGS.test_worlds, regression_steps=FLAGS.steps)


def main() -> int:
  return experiment_flags.run(figure5, FLAGS, FLAGS.rule, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
