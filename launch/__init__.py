"""Starts programs: on this machine, on a cluster, by commands.

`main` is the command `lpg`. `python -m launch.NAME` runs one of the commands
in `launch/commands` too; everything else is imported as
`lpg_distributed.launch`.
"""

import os

__path__ += [os.path.join(os.path.dirname(__file__), directory)
             for directory in ('commands', 'other_names')]
