"""Starts programs: on this machine, on a cluster, by commands.

The commands are in `launch/commands`. `python -m launch.NAME` runs
`launch/commands/NAME.py`, and everything else is imported as
`lpg_distributed.launch`.
"""

import os

__path__.append(os.path.join(os.path.dirname(__file__), 'commands'))
