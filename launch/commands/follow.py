"""Evaluates the snapshots of a run, with and without predictions.

  lpg follow --run_dir=runs/demo_seed0 --watch

Runs at low priority, in a process of its own. Rows go to the run's
`metrics/ablations.jsonl`; `lpg plot` draws them.
"""

import os

from absl import flags

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import follow
from lpg_distributed.launch import command
from lpg_distributed.launch import experiment_flags

_NICE = 15
FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string('run_dir', None, 'the run', flag_values=FLAGS)
experiment_flags.define_integers(
    FLAGS, num_lifetimes=(32, 'lifetimes of each kind, for each variant'),
    every=(1, 'evaluate one snapshot of so many'))
_WATCH = flags.DEFINE_bool('watch', False, 'go on until the run has ended',
                           flag_values=FLAGS)


def main() -> int:
  command.require(_RUN_DIR)
  experiment.one_thread()
  os.setpriority(os.PRIO_PROCESS, 0, _NICE)
  follow.follow(_RUN_DIR.value, lambda line: print(line, flush=True),
                FLAGS.num_lifetimes, FLAGS.every, _WATCH.value)
  return 0


if __name__ == '__main__':
  command.run(main, FLAGS)
