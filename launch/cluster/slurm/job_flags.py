"""The flags of a Slurm job, for all commands that submit one."""

from typing import Callable, Optional

from absl import flags

from lpg_distributed.launch import command
from lpg_distributed.launch.cluster import resources

# The flags count as those of the module that calls `define`.
flags.disclaim_key_flags()


def define() -> tuple[Callable[[str], Optional[resources.JobResources]],
                      flags.FlagHolder[bool]]:
  """Defines --resources and --follow.

  Returns:
    A function from the launch type to the content of --resources, which is
    None if the type is not slurm; and the flag --follow. The function raises
    UsageError if the flags do not fit the launch type.
  """
  file = flags.DEFINE_string(
      'resources', None, 'for --launch_type=slurm: a file that states where '
      'nodes run and what they get; see docs/cluster.md')
  follow = flags.DEFINE_bool(
      'follow', False, 'with --launch_type=slurm: show the job\'s log until it '
      'ends')

  def load(launch_type):
    if launch_type == 'slurm':
      if not file.value:
        raise command.UsageError('--resources is missing: a file that states '
                                 'where nodes run; see docs/cluster.md')
      return resources.load(file.value)
    for flag in (file, follow):
      if flag.value:
        raise command.UsageError(f'--{flag.name} is for --launch_type=slurm')
    return None

  return load, follow
