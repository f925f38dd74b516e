"""Publishes a run's rule: its weights, and a card that says what it is.

  lpg publish --run_dir=runs/demo_seed0 --name=demo --summary="..."

Writes `NAME.npz` and `NAME.json` to `lpg_distributed/weights` of a checkout.
The rule of a run fluctuates, so `--average_last=5` takes the mean of the last
five snapshots.
This command computes all results of the card, on held-out lifetimes. The same
command resumes.
"""

import os

from absl import flags

from lpg_distributed import program_version
from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.store import published

_RUN_DIR = flags.DEFINE_string('run_dir', None, 'the run')
_NAME = flags.DEFINE_string('name', None, 'name of the rule, as '
                            'chains_and_grids')
_SUMMARY = flags.DEFINE_string('summary', '', 'one line for the card')
_AVERAGE_LAST = flags.DEFINE_integer(
    'average_last', 1, 'publish the mean of so many last snapshots; 1: the '
    'last rule',
    1)
_NUM_LIFETIMES = flags.DEFINE_integer(
    'num_lifetimes', 32, 'lifetimes of each environment in each comparison', 2)
_ENVIRONMENTS = flags.DEFINE_list(
    'environments', [], 'environments whose results the card states; default: '
    'all of the training')
_REPLACE = flags.DEFINE_bool('replace', False, 'replace a published rule of '
                             'that name')


def main() -> int:
  command.require(_RUN_DIR, _NAME)
  if not published.is_name(_NAME.value):
    raise command.UsageError(
        f'--name is {_NAME.value!r}; allowed: small letters, digits and _, '
        'the first a letter')
  if _NAME.value in published.names() and not _REPLACE.value:
    raise command.UsageError(f'{_NAME.value} is published already; allowed '
                             'with --replace')
  if not os.path.exists(os.path.join(process_environment.root(),
                                     'pyproject.toml')):
    raise command.UsageError(
        f'{published.DIRECTORY} belongs to an installed package; allowed: lpg '
        'publish of a checkout, since rules are published with the code')
  process_environment.ensure(process_environment.WORKER)
  from lpg_distributed.analysis import model_card
  card = model_card.publish(
      _RUN_DIR.value, _NAME.value, summary=_SUMMARY.value,
      average_last=_AVERAGE_LAST.value, num_lifetimes=_NUM_LIFETIMES.value,
      commit=program_version.commit() or 'unknown',
      command=command.as_typed('publish'),
      environments=_ENVIRONMENTS.value)
  print('\n'.join(model_card.lines(card)))
  print(f'weights: {os.path.relpath(published.weights_path(_NAME.value))}')
  print(f'card: {os.path.relpath(published.card_path(_NAME.value))}')
  return 0


if __name__ == '__main__':
  command.run(main)
