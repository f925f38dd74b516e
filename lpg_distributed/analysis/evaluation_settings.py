"""How policy evaluation is done, as data and flags; see `policy_evaluation`."""

import argparse
import dataclasses

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import stored

GAMMA = 0.995  # Section 4.3


@dataclasses.dataclass(frozen=True)
class Settings:
  """How predictions are learned; Table 3's numbers for tabular grids."""
  updates: int = 400
  records: int = 20  # how often predictions are looked at, equally spaced
  num_envs: int = 64
  trajectory_steps: int = 20
  alpha_lr: float = 40.
  alpha_y: float = 0.5
  gamma: float = GAMMA


def add_flags(parser: argparse.ArgumentParser, updates: int) -> None:
  """Adds the flags that `settings_of` reads."""
  defaults = Settings(updates=updates)
  experiment.add_counts(parser, {
      'updates': (defaults.updates, 'of the predictions'),
      'records': (defaults.records, 'how often these are looked at'),
      'num_envs': (defaults.num_envs, 'parallel environments of a world')})
  for name in ('alpha_lr', 'alpha_y'):
    parser.add_argument(f'--{name}', type=float, metavar='X',
                        default=getattr(defaults, name),
                        help='of the agents; default: %(default)s')


def settings_of(args: argparse.Namespace) -> Settings:
  """Raises ResultsError for numbers that are not allowed."""
  experiment.check_counts(args, ('updates', 'records', 'num_envs'))
  experiment.check_counts(args, ('seed',), 0)
  if args.updates % args.records:
    raise stored.ResultsError(f'--records is {args.records}; allowed: what '
                              f'divides --updates, {args.updates}')
  return Settings(updates=args.updates, records=args.records,
                  num_envs=args.num_envs, alpha_lr=args.alpha_lr,
                  alpha_y=args.alpha_y)
