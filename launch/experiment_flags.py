"""The flags of commands that compute or draw an experiment."""

from typing import Any, Callable

from absl import flags

from lpg_distributed import fields
from lpg_distributed.analysis import evaluation_settings
from lpg_distributed.analysis import experiment as experiment_lib
from lpg_distributed.launch import command

# They count as flags of the module that calls these functions.
flags.disclaim_key_flags()


def define_results(flag_values: flags.FlagValues, name: str) -> None:
  """Defines --results and --figure of the experiment `name`."""
  flags.DEFINE_string(
      'results', f'runs/{name}.json', 'the file of results, which is written '
      'or read', flag_values=flag_values)
  flags.DEFINE_string(
      'figure', None, 'where the figure goes; default: beside the results, as '
      '.svg', flag_values=flag_values)


def define_rules(flag_values: flags.FlagValues) -> None:
  """Defines --rule, which is also called --run, and --average_last."""
  flags.DEFINE_multi_string(
      'rule', [], '[LABEL=]PLACE, where PLACE is a run\'s directory, a file, '
      'or the name of a published rule; many times. Without it, the results '
      'that are there are drawn', flag_values=flag_values)
  flags.DEFINE_alias('run', 'rule', flag_values=flag_values)
  flags.DEFINE_integer(
      'average_last', 1, 'take the mean of a run\'s last N snapshots',
      flag_values=flag_values)


def define_integers(flag_values: flags.FlagValues,
                    **integers: tuple[int, str]) -> None:
  """Defines integer flags; each is given by its default and its help."""
  for name, (default, text) in integers.items():
    flags.DEFINE_integer(name, default, text, flag_values=flag_values)


def define_seed(flag_values: flags.FlagValues) -> None:
  flags.DEFINE_integer(
      'seed', 0, 'seed of layouts, agents and actions', fields.SEED.low,
      fields.SEED.high, flag_values=flag_values)


def define_evaluation(flag_values: flags.FlagValues, updates: int) -> None:
  """Defines how policies are evaluated; see `evaluation_settings`."""
  defaults = evaluation_settings.PredictionSettings(updates=updates)
  define_seed(flag_values)
  define_integers(
      flag_values, updates=(defaults.updates, 'updates of the predictions'),
      records=(defaults.records, 'how often predictions are recorded'),
      num_envs=(defaults.num_envs, 'parallel environments of each world'))
  for name, text in (('learning_rate', 'learning rate'),
                     ('kl_cost', 'KL cost')):
    flags.DEFINE_float(name, getattr(defaults, name), f'{text} of the agents',
                       flag_values=flag_values)


def evaluation_of(flag_values: flags.FlagValues
                  ) -> evaluation_settings.PredictionSettings:
  """Returns the settings that the flags of `define_evaluation` have.

  Raises:
    ResultsError: a number that is not allowed.
  """
  return evaluation_settings.checked(evaluation_settings.PredictionSettings(
      updates=flag_values.updates, records=flag_values.records,
      num_envs=flag_values.num_envs, learning_rate=flag_values.learning_rate,
      kl_cost=flag_values.kl_cost))


def run(experiment: Any, flag_values: flags.FlagValues, source: Any,
        compute: Callable[[], Any]) -> int:
  """Computes an experiment, if requested, then draws and prints it.

  Args:
    experiment: a module of `analysis`.
    flag_values: values of --results, --figure and others.
    source: value of the flag that names the rules; if it is empty, existing
      results are drawn.
    compute: returns `about` and `data`; see `analysis.stored`.

  Returns:
    The exit code.
  """
  if source:
    experiment_lib.compute_and_store(
        experiment, flag_values.results,
        command.as_typed(experiment.NAME.replace('_', '-')), compute)
  for line in experiment_lib.show(experiment, flag_values.results,
                                  flag_values.figure):
    print(line)
  return 0
