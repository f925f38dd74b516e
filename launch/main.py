"""The command `lpg`: starts one of the commands in `launch/commands`."""

import difflib
import importlib
import sys
from typing import NamedTuple

from absl import flags

import lpg_distributed
from lpg_distributed.launch import command


class Subcommand(NamedTuple):
  module: str  # of `launch.commands`
  summary: str


SUBCOMMANDS = {
    'meta-train': Subcommand('meta_train', 'meta-train a rule'),
    'meta-test': Subcommand('meta_test', 'train agents by a rule'),
    'mini': Subcommand('mini', 'compare three rules on eight environments'),
    'mini-table': Subcommand('mini_table', 'compare rules of several minis'),
    'select': Subcommand('select_hyperparameters',
                         'select hyperparameters of agents'),
    'atari': Subcommand('atari', 'train agents on many Atari games'),
    'bandit': Subcommand('query_bandit', 'show what a run\'s bandit prefers'),
    'follow': Subcommand('follow', 'evaluate the snapshots of a run'),
    'study': Subcommand('study', 'meta-train all variants of a study'),
    'publish': Subcommand('publish', 'publish the rule of a run'),
    'plot': Subcommand('plot', 'draw the curves of a run'),
    'report': Subcommand('report', 'describe a run on one HTML page'),
    'plot-results': Subcommand('plot_results', 'draw results of meta-test'),
    'atari-results': Subcommand('atari_results', 'draw results of atari'),
    'figure3': Subcommand('figure3', 'compare rules on training environments'),
    'figure4': Subcommand('figure4', 'draw predictions of a grid world'),
    'figure5': Subcommand('figure5', 'read values from predictions'),
    'figure6': Subcommand('figure6', 'measure how predictions converge'),
    'figure7': Subcommand('figure7', 'compare the variants of a study'),
    'against-a2c': Subcommand('against_a2c', 'compare rules with A2C by kind'),
    'action-sets': Subcommand('action_sets', 'split figure3 by action set'),
    'ablation-curves': Subcommand('ablation_curves', 'draw what follow wrote'),
    'gradient-noise': Subcommand('gradient_noise', 'measure meta-gradients'),
    'sensitivity': Subcommand('sensitivity', 'differentiate a rule'),
    'slurm': Subcommand('slurm', 'show, follow or cancel a Slurm job'),
    'kubernetes': Subcommand('export_kubernetes', 'write manifests'),
    'vertex-ai': Subcommand('vertex_ai', 'meta-train on Vertex AI'),
}

_USAGE = 'usage: lpg COMMAND [--flag=value ...]; see lpg COMMAND --help'


def _usage() -> str:
  """Lists all commands on a screen of 24 lines; the figures share a line."""
  figures = [name for name in SUBCOMMANDS if name.startswith('figure')]
  rows = []
  for name, subcommand in SUBCOMMANDS.items():
    if name == figures[0]:
      rows.append((f'{name} ... {figures[-1][-1]}',
                   'compute and draw a figure of the paper'))
    elif name not in figures:
      rows.append((name, subcommand.summary))
  return '\n'.join([_USAGE, *(f'  {name:17}{text}' for name, text in rows)])


def _refuse(name: str) -> int:
  closest = difflib.get_close_matches(name, SUBCOMMANDS, 1)
  raise command.UsageError(
      f'there is no command {name!r}; '
      + (f'did you mean {closest[0]}? ' if closest else '')
      + 'lpg --help lists all')


def _print_or_refuse() -> int:
  """Handles `lpg` without a command."""
  name = sys.argv[1] if sys.argv[1:] else '--help'
  if name in ('-h', '-help', '--help', 'help'):
    print(_usage())
  elif name in ('--version', 'version'):
    print(f'lpg-distributed {lpg_distributed.__version__}')
  else:
    _refuse(name)
  return 0


def main() -> None:
  subcommand = SUBCOMMANDS.get(sys.argv[1]) if sys.argv[1:] else None
  if subcommand is None:
    command.run(_print_or_refuse, flag_values=None)
    return
  sys.argv[:2] = [f'lpg {sys.argv[1]}']
  module = importlib.import_module(
      f'lpg_distributed.launch.commands.{subcommand.module}')
  # Commands that other programs start have the flags of the process.
  command.run(module.main, getattr(module, 'FLAGS', flags.FLAGS))


if __name__ == '__main__':
  main()
