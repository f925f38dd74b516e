"""Measures the norms of lifetimes' meta-gradients, and how they agree.

  lpg gradient-noise --run=runs/demo_seed0

Without --run, the results that are there are drawn.
"""

from absl import flags

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import gradient_noise
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, gradient_noise.NAME)
experiment_flags.define_rules(FLAGS)
experiment_flags.define_seed(FLAGS)
experiment_flags.define_integers(
    FLAGS, num_lifetimes=(60, 'lifetimes of each kind'),
    batch=(6, 'lifetimes of each kind in a batch'))


def _compute():
  return gradient_noise.compute(
      experiment.only(FLAGS.rule), FLAGS.average_last, FLAGS.seed,
      FLAGS.num_lifetimes, FLAGS.batch)


def main() -> int:
  return experiment_flags.run(gradient_noise, FLAGS, FLAGS.rule, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
