"""Compares a rule, A2C and a random eta, and PPO, on eight small environments.

  lpg mini --eta=runs/demo_seed0/eta.npz
"""

import json
import os
import sys

from absl import flags

from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch import stopping
from lpg_distributed.launch.local import pool

_ETA = flags.DEFINE_string('eta', None, 'the rule: a file, or the name of a '
                           'published rule')
_RUN_DIR = flags.DEFINE_string('run_dir', 'runs/mini', 'where results go; the '
                               'same command resumes')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'seeds, 3 or more')
_ENVIRONMENTS = flags.DEFINE_list('environments', [], 'some of the eight, as '
                                  'gymnax/Catch-bsuite; default: all')
_RULES = flags.DEFINE_list('rules', ['lpg', 'a2c', 'random'], 'some of lpg, '
                           'a2c, random and ppo; lpg is the rule of --eta')
_SCALE = flags.DEFINE_float('scale', 1., 'multiplies the steps of every agent')
_PROCESSES = flags.DEFINE_integer(
    'processes', None, 'number of processes; default: one per processor')


def _do(config, environment: str, rule: str, root: str) -> None:
  from lpg_distributed.meta_testing import mini
  mini.run_item(mini.Item(config, environment, rule, root))


def main() -> int:
  if not _ETA.value:
    raise command.UsageError('--eta is missing; allowed: a file, or the name '
                             'of a published rule')
  process_environment.ensure(process_environment.WORKER)
  from lpg_distributed.meta_testing import learning_curves
  from lpg_distributed.meta_testing import mini
  from lpg_distributed.store import published
  root = _RUN_DIR.value
  seeds = command.parse_seeds(_SEEDS.value)
  if not 0. < _SCALE.value <= 1000.:
    raise command.UsageError(f'--scale is {_SCALE.value}; allowed: more than '
                             '0, up to 1000')
  config = mini.MiniConfig(
      published.resolve(_ETA.value), seeds,
      tuple(_ENVIRONMENTS.value) or tuple(mini.ENV_STEPS), _SCALE.value,
      tuple(_RULES.value))
  mini.check(config, root)
  with stopping.Stopping() as stop:
    finished = pool.work([
        pool.PoolTask(f'{item.environment} by {item.rule}', _do,
                      (config, item.environment, item.rule, root))
        for item in mini.items(config, root) if item.result() is None
    ], _PROCESSES.value, stop.event)
  rows = mini.table(config, root)
  if not rows:
    return stop.exit_code or 1
  lines = mini.lines_of(rows)
  print('\n'.join(lines))
  from lpg_distributed import files
  files.write_whole(os.path.join(root, 'table.md'),
                    ('\n'.join(lines) + '\n').encode())
  files.write_whole(os.path.join(root, 'table.json'),
                    (json.dumps(rows, indent=1) + '\n').encode())
  found = [result for item in mini.items(config, root)
           if (result := item.result()) is not None]
  figure = learning_curves.draw(found, os.path.join(root, 'figure.png'))
  print(f'figure: {figure}')
  if not finished:
    print('stopped; the same command resumes', file=sys.stderr)
  return stop.exit_code


if __name__ == '__main__':
  command.run(main)
