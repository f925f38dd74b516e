"""Figure 3: compares rules with A2C on the training environments.

  lpg figure3 --run=LPG=runs/demo_seed0 --run=LPG-V=runs/lpg_v \\
    --results=runs/figure3.json

Agents live in held-out lifetimes: by each rule, by A2C, by an untrained rule
and by three ablations of each rule. Rules and A2C are tuned in other lifetimes
by the same search. Results are written after each part of the comparison, and
the same command resumes with what is missing. Without --run, the results are
drawn.
"""

from absl import flags

from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import training_settings
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

FLAGS = flags.FlagValues()
experiment_flags.define_results(FLAGS, figure3.NAME)
experiment_flags.define_rules(FLAGS)
experiment_flags.define_seed(FLAGS)
_DEFAULTS = training_settings.ComparisonSettings()
experiment_flags.define_integers(
    FLAGS,
    num_lifetimes=(_DEFAULTS.num_lifetimes, 'lifetimes for each rule and kind'),
    chunk=(_DEFAULTS.chunk, 'how many lifetimes are computed at a time'),
    trials=(_DEFAULTS.trials, 'trials of the search for hyperparameters, for '
            'each rule and A2C alike; 1: no search, but the defaults'),
    finalists=(_DEFAULTS.finalists, 'best trials that are run again'),
    tuning_lifetimes=(_DEFAULTS.tuning_lifetimes, 'lifetimes of each trial'),
    final_lifetimes=(_DEFAULTS.final_lifetimes,
                     'lifetimes of each of the finalists'),
    updates=(0, 'updates of each lifetime; 0: as in training'),
    num_envs=(0, 'environments of each lifetime; 0: as in training'))
_ENVIRONMENTS = flags.DEFINE_list(
    'environments', [], 'names, or all; default: those of the first rule\'s '
    'training', flag_values=FLAGS)
_NO_A2C = flags.DEFINE_bool('no_a2c', False, 'leave A2C out',
                            flag_values=FLAGS)
_NO_ABLATIONS = flags.DEFINE_bool('no_ablations', False,
                                  'leave the ablations out', flag_values=FLAGS)


def _compute():
  settings = training_settings.ComparisonSettings(
      num_lifetimes=FLAGS.num_lifetimes, chunk=FLAGS.chunk,
      trials=FLAGS.trials, finalists=FLAGS.finalists,
      tuning_lifetimes=FLAGS.tuning_lifetimes,
      final_lifetimes=FLAGS.final_lifetimes, updates=FLAGS.updates,
      num_envs=FLAGS.num_envs, seed=FLAGS.seed, a2c=not _NO_A2C.value,
      ablations=not _NO_ABLATIONS.value)
  return figure3.compute(FLAGS.rule, settings, FLAGS.results,
                         _ENVIRONMENTS.value, FLAGS.average_last)


def main() -> int:
  return experiment_flags.run(figure3, FLAGS, FLAGS.rule, _compute)


if __name__ == '__main__':
  command.run(main, FLAGS)
