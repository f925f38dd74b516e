"""Figure 7: compares variants of meta-training over seeds.

  lpg figure7 --study=runs/study_ablations

Reads the runs that `lpg study` trained to their end. Without --study, the
results that are there are drawn.
"""

from absl import flags

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import figure7
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, figure7.NAME)
experiment_flags.define_integers(FLAGS, points=(20, 'points of a curve'))
_STUDY = flags.DEFINE_multi_string(
    'study', [], 'the directory of a study\'s runs', flag_values=FLAGS)


def _compute():
  return figure7.compute(experiment.only(_STUDY.value, '--study'),
                         FLAGS.points)


def main() -> int:
  return experiment_flags.run(figure7, FLAGS, _STUDY.value, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
