"""Addresses of nodes that are not placed yet when the program is serialised."""

import os
import time

from launchpad import address as lp_address

from lpg_distributed.launch.cluster.slurm import places

_PATIENCE_S = 600.
_PAUSE_S = 0.2


class PublishedAddress(lp_address.AbstractAddressBuilder):
  """What the node's agent has published in the directory of this attempt.

  A node that is started again keeps its agent, and with it its address.
  """

  def __init__(self, label: str, number: int, name: str):
    """Of the node `number` of `label`; a node may have several, by name."""
    self._file = f'{places.node_file(label, number)}.{name}'

  def build(self) -> str:
    """Waits for the address.

    Raises:
      RuntimeError: the node's agent did not begin in time.
    """
    directory = os.path.join(os.environ[places.VARIABLE], 'addresses')
    deadline = time.monotonic() + _PATIENCE_S
    while True:
      places.names(directory)  # So that NFS looks again.
      address = places.read(os.path.join(directory, self._file))
      if address is not None:
        return address
      if time.monotonic() > deadline:
        raise RuntimeError(f'no address of {self._file} within '
                           f'{_PATIENCE_S:g} s')
      time.sleep(_PAUSE_S)


def stop_program(mark_as_completed: bool = False) -> None:
  """What `lp.stop()` does in a node: asks the job's leader for the end."""
  del mark_as_completed
  places.write(os.path.join(os.environ[places.VARIABLE], places.STOP), True)
