"""Shows, follows or cancels the Slurm job of a run.

  lpg slurm --run_dir=runs/mine

`lpg meta-train` and `lpg atari` submit jobs, with `--launch_type=slurm`.
"""

import os

from absl import flags

from lpg_distributed.launch import command
from lpg_distributed.launch.cluster.slurm import commands
from lpg_distributed.launch.cluster.slurm import launches
from lpg_distributed.launch.cluster.slurm import submit

_RUN_DIR = flags.DEFINE_string('run_dir', None, 'the run, or the results')
_FOLLOW = flags.DEFINE_bool(
    'follow', False, 'show the job\'s log until it ends; Ctrl-C leaves it '
    'alone')
_CANCEL = flags.DEFINE_bool(
    'cancel', False, 'end the job with a checkpoint; the run can be resumed')


def main() -> int:
  command.require(_RUN_DIR)
  if not os.path.isdir(_RUN_DIR.value):
    raise command.UsageError(f'--run_dir is {_RUN_DIR.value!r}, which is no '
                             'directory')
  found = submit.current(_RUN_DIR.value)
  if found is None:
    return launches.show_without_job(_RUN_DIR.value)
  job_id, state = found
  if _CANCEL.value:
    commands.call('scancel', job_id)
    print(f'job {job_id} ends; it was {state.name}')
  if _FOLLOW.value:
    return launches.attach(_RUN_DIR.value, True) or 0
  if not _CANCEL.value:
    print(f'job {job_id} is {state.name}'
          + (f' on {state.hosts}' if state.hosts else f' ({state.reason})'))
  return 0


if __name__ == '__main__':
  command.run(main)
