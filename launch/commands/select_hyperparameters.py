"""Selects learning rate and KL cost on validation environments (B.2).

  lpg select --eta=runs/demo_seed0/eta.npz
"""

import json
import os
import sys

from absl import flags

from lpg_distributed.core.update_rules import registry
from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch import stopping
from lpg_distributed.launch.local import pool

_ETA = flags.DEFINE_string('eta', None, 'the rule: a file, or the name of a '
                           'published rule')
_RULE = flags.DEFINE_string('rule', 'lpg', ', '.join(registry.names()))
_ENVIRONMENTS = flags.DEFINE_list(
    'environments', None, 'the validation environments; default: Breakout and '
    'Boxing')
_RATES = flags.DEFINE_list(
    'learning_rates', None, 'learning rates to try; default: those of Table 4')
_KL_COSTS = flags.DEFINE_list(
    'kl_costs', None, 'KL costs to try; default: those of Table 4')
_SEEDS = flags.DEFINE_list('seeds', ['0'], 'seeds, one agent each, as '
                           '0,1,2')
_ENV_STEPS = flags.DEFINE_integer(
    'env_steps', 250_000, 'environment steps of each agent; on Atari '
    'four frames each')
_NUM_ENVS = flags.DEFINE_integer('num_envs', None, 'parallel environments')
_SET = flags.DEFINE_multi_string(
    'set', [], 'a setting of all agents, as reward_scale=0.1; many times')
_RUN_DIR = flags.DEFINE_string('run_dir', 'runs/select', 'where results go; '
                               'the same command resumes')
_PROCESSES = flags.DEFINE_integer(
    'processes', None, 'number of processes; default: one per processor')


def _numbers(flag, kind, default=()):
  if flag.value is None:
    return default
  try:
    return tuple(kind(text) for text in flag.value)
  except ValueError:
    raise command.UsageError(f'--{flag.name} is {",".join(flag.value)!r}; '
                             'allowed: numbers with commas between them'
                             ) from None


def _do(trial) -> None:
  from lpg_distributed.meta_testing import selection
  selection.run_trial(trial)


def main() -> int:
  process_environment.ensure(process_environment.WORKER)
  from lpg_distributed import files
  from lpg_distributed.meta_testing import selection
  trials = selection.trials(
      _RUN_DIR.value,
      (selection.ENVIRONMENTS if _ENVIRONMENTS.value is None
       else _ENVIRONMENTS.value),
      _numbers(_RATES, float, selection.LEARNING_RATES),
      _numbers(_KL_COSTS, float, selection.KL_COSTS), rule=_RULE.value,
      eta=_ETA.value,
      seeds=_numbers(_SEEDS, int), env_steps=_ENV_STEPS.value,
      num_envs=_NUM_ENVS.value, overrides=_SET.value)
  with stopping.Stopping() as stop:
    done = pool.work([
        pool.PoolTask(os.path.basename(trial.directory), _do, (trial,))
        for trial in trials], _PROCESSES.value, stop.event)
  if not done:
    print('stopped; the same command resumes', file=sys.stderr)
    return stop.exit_code
  choice = selection.choose(trials)
  lines = selection.lines_of(choice)
  print('\n'.join(lines))
  files.write_whole(
      os.path.join(_RUN_DIR.value, 'choice.json'),
      (json.dumps({'best': choice.best._asdict(), 'pairs': [
          {**pair._asdict(), 'score': choice.scores.get(pair),
           'returns': returns} for pair, returns in choice.returns.items()
      ]}, indent=1) + '\n').encode())
  return 0


if __name__ == '__main__':
  command.run(main)
