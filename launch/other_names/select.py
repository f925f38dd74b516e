"""`python -m launch.select`; see `launch/commands/select_hyperparameters.py`.

A module called `select` would hide that of the standard library from whoever
has its directory on the path, so that it stands apart from all others.
"""

from lpg_distributed.launch import command
from lpg_distributed.launch.commands import select_hyperparameters

if __name__ == '__main__':
  command.run(select_hyperparameters.main)
