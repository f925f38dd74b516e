"""Meta-trains LPG: python -m launch.meta_train --preset=demo"""

import os
import sys

from absl import flags

from launch import command
from launch import process_environment
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.nodes import run_directory

_PRESET = flags.DEFINE_string('preset', 'demo', 'demo, laptop or paper')
_CONFIG = flags.DEFINE_string(
    'config', None, 'JSON file with fields that differ from the preset')
_SET = flags.DEFINE_multi_string(
    'set', [], 'a field and its value, as meta.num_updates=3; many times')
_LAUNCH_TYPE = flags.DEFINE_string(
    'launch_type', 'local_mp', ', '.join(command.LAUNCH_TYPES))
_RUN_DIR = flags.DEFINE_string(
    'run_dir', None, 'where the run is, or shall be; default: '
    'runs/<preset>_seed<seed>')
_SEED = flags.DEFINE_string('seed', None, 'short for --set=run.seed=')
_NUM_WORKERS = flags.DEFINE_string(
    'num_workers', None, 'short for --set=run.num_workers=')
_META_STEPS = flags.DEFINE_string(
    'meta_steps', None, 'short for --set=run.meta_steps=')
_BANDIT_PORT = flags.DEFINE_integer(
    'bandit_port', 0, 'where the bandit answers; 0: anywhere')
_EVALUATE = flags.DEFINE_bool(
    'evaluate', None, 'at the end, compare the rule with an untrained one on '
    'new lifetimes; default: only after the demo, since it takes its time')


def _make_config():
  config = presets.load(_PRESET.value)
  if _CONFIG.value is not None:
    config = config_io.load_file(config, _CONFIG.value)
  short = {'run.seed': _SEED, 'run.num_workers': _NUM_WORKERS,
           'run.meta_steps': _META_STEPS}
  overrides = [f'{name}={flag.value}' for name, flag in short.items()
               if flag.value is not None]
  return config_io.apply_overrides(config, overrides + _SET.value)


def main() -> int:
  if _LAUNCH_TYPE.value not in command.LAUNCH_TYPES:
    raise command.UsageError(
        f'--launch_type is {_LAUNCH_TYPE.value!r}; allowed: '
        f'{", ".join(command.LAUNCH_TYPES)}')
  config = _make_config()
  command.check_port(_BANDIT_PORT.value)
  if _BANDIT_PORT.value and _LAUNCH_TYPE.value == 'embedded':
    raise command.UsageError('--bandit_port is set, and embedded has no '
                             'server; allowed there: 0')
  process_environment.ensure(process_environment.WORKER, 'launch.meta_train')

  path = _RUN_DIR.value or os.path.join(
      'runs', f'{_PRESET.value}_seed{config.run.seed}')
  run = run_directory.RunDirectory.open(path, config)
  try:
    # What brings JAX comes after all that can be wrong with a command.
    from lpg_distributed.nodes import checkpointing
    checkpoint = checkpointing.latest(run.path)
    run.update(config)
    step = 0 if checkpoint is None else checkpoint.meta_step
    begin = f'goes on at meta-step {step}' if step else 'begins'
    print(f'run {os.path.relpath(run.path)} {begin}', file=sys.stderr)
    code = 0
    if step < config.run.meta_steps:
      from launch import runner
      code = runner.run(config, _LAUNCH_TYPE.value, run, checkpoint,
                        _BANDIT_PORT.value)
    if code:
      print('stopped; the same command goes on from the last checkpoint',
            file=sys.stderr)
      return code
    from lpg_distributed.analysis import report
    if _EVALUATE.value or (_EVALUATE.value is None
                           and _PRESET.value == 'demo'):
      report.evaluate(run.path, config)
    for line in report.summarise(run.path, config):
      print(line)
  finally:
    run.close()
  return 0


if __name__ == '__main__':
  command.run(main)
