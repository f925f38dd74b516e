"""Draws the ablations of predictions through meta-training.

  lpg follow --run_dir=runs/p800
  lpg ablation-curves --run_dir=runs/p800 --results=runs/ablation_curves.json

Reads what `lpg follow` wrote. Without --run_dir, the results that are there are
drawn.
"""

from absl import flags

from lpg_distributed.analysis import ablation_curves
from lpg_distributed.analysis import experiment
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, ablation_curves.NAME)
_RUN_DIR = flags.DEFINE_multi_string(
    'run_dir', [], 'the directory of a run that was followed',
    flag_values=FLAGS)


def _compute():
  return ablation_curves.compute(
      experiment.only(_RUN_DIR.value, '--run_dir'))


def main() -> int:
  return experiment_flags.run(ablation_curves, FLAGS, _RUN_DIR.value, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
