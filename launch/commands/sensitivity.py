"""Measures what pi_hat and y_hat respond to, and over how many steps.

  lpg sensitivity --run=runs/demo_seed0

Without --run, the results that are there are drawn.
"""

from absl import flags

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import sensitivity
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, sensitivity.NAME)
experiment_flags.define_rules(FLAGS)
experiment_flags.define_seed(FLAGS)
experiment_flags.define_integers(
    FLAGS, updates=(50, 'updates that agents have learned for'),
    num_lifetimes=(8, 'agents'), snapshots=(8, 'of a run, at most'))
_ENVIRONMENT = flags.DEFINE_string(
    'environment', '', 'a training environment; default: the first of the '
    'training', flag_values=FLAGS)


def _compute():
  return sensitivity.compute(
      experiment.only(FLAGS.rule), FLAGS.average_last, FLAGS.seed,
      _ENVIRONMENT.value, FLAGS.updates, FLAGS.num_lifetimes, FLAGS.snapshots)


def main() -> int:
  return experiment_flags.run(sensitivity, FLAGS, FLAGS.rule, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
