"""Addresses of nodes that are unknown when the program is serialised."""

import os
import time

from launchpad import address as lp_address

from lpg_distributed.launch.cluster.slurm import places

_PATIENCE_S = 600.
_PAUSE_S = 0.2


class PublishedAddress(lp_address.AbstractAddressBuilder):
  """An address that the node's agent publishes in the attempt's directory.

  A restarted node keeps its agent, and so its address.
  """

  def __init__(self, label: str, number: int, name: str):
    """Takes the node's label and number, and the name of the address."""
    self._file = f'{places.node_file(label, number)}.{name}'

  def build(self) -> str:
    """Waits for the address and returns it.

    Raises:
      RuntimeError: the node's agent did not start in time.
    """
    directory = os.path.join(os.environ[places.VARIABLE], 'addresses')
    deadline = time.monotonic() + _PATIENCE_S
    while True:
      places.names(directory)  # Makes NFS refresh the directory.
      address = places.read(os.path.join(directory, self._file))
      if address is not None:
        return address
      if time.monotonic() > deadline:
        raise RuntimeError(f'no address of {self._file} within '
                           f'{_PATIENCE_S:g} s')
      time.sleep(_PAUSE_S)


def stop_program(mark_as_completed: bool = False) -> None:
  """Implements `lp.stop()` in a node: asks the job's leader to end."""
  del mark_as_completed
  places.write(os.path.join(os.environ[places.VARIABLE], places.STOP), True)
