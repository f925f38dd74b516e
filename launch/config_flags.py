"""The flags of a configuration, for all commands that meta-train."""

from typing import Callable, Optional

from absl import flags

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets

# The flags count as those of the module that calls `define`.
flags.disclaim_key_flags()


def define() -> Callable[[Optional[int]], config_lib.Config]:
  """Defines --preset, --config, --set and three short forms of --set.

  Returns:
    A function that makes the configuration once flags are parsed. Its argument
    is the number of workers if no flag sets it, or None.
  """
  preset = flags.DEFINE_string('preset', 'demo', 'demo, laptop or paper')
  file = flags.DEFINE_string(
      'config', None, 'a JSON file with fields that differ from the preset')
  fields = flags.DEFINE_multi_string(
      'set', [], 'sets a field, as meta.num_updates=3; many times')
  short = [flags.DEFINE_string(name, None, f'short for --set=run.{name}=VALUE')
           for name in ('seed', 'num_workers', 'meta_steps')]

  def make_config(num_workers=None):
    config = presets.load(preset.value)
    if file.value is not None:
      config = config_io.load_file(config, file.value)
    overrides = []
    if num_workers is not None:
      overrides.append(f'run.num_workers={num_workers}')
    overrides += [f'run.{flag.name}={flag.value}' for flag in short
                  if flag.value is not None]
    return config_io.apply_overrides(config, overrides + fields.value)

  return make_config
