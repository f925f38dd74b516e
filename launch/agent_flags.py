"""The flags of a rule and its agents, for all commands that meta-test."""

from typing import Any, Callable

from absl import flags

from lpg_distributed.core.update_rules import registry

# Fields of `settings.AgentSettings`. That module is not imported here, since it
# imports JAX, which takes seconds. A test compares them.
_SETTINGS = ('optimiser', 'learning_rate', 'kl_cost', 'gamma',
             'trajectory_steps', 'use_baseline', 'reward_scale',
             'max_abs_reward', 'td_lambda', 'value_cost', 'entropy_cost',
             'clip_range', 'passes', 'minibatches')

# The flags count as those of the module that calls `define`.
flags.disclaim_key_flags()


def define() -> Callable[[], dict[str, Any]]:
  """Defines --rule, --eta, --set and --lstm_size.

  Returns:
    A function that gives their values, as arguments of `jobs.make_job`, once
    flags are parsed.
  """
  rule = flags.DEFINE_string('rule', 'lpg', ', '.join(registry.names()))
  eta = flags.DEFINE_string(
      'eta', None, 'a learned rule: a file, or the name of a published rule')
  overrides = flags.DEFINE_multi_string(
      'set', [], 'a setting of the agent and its value, as '
      f'learning_rate=0.001; many times; one of {", ".join(_SETTINGS)}; see '
      'docs/meta_testing.md')
  lstm_size = flags.DEFINE_integer(
      'lstm_size', 256, 'LSTM units of the eta that --rule=random draws '
      'without --eta')
  return lambda: {'rule': rule.value, 'eta': eta.value,
                  'overrides': overrides.value, 'lstm_size': lstm_size.value}
