"""A Launchpad program made ready for hosts where Launchpad starts nothing.

With Launchpad's own machinery: the nodes' contexts, handles and addresses are
set up as its launcher of local processes does it, and the nodes are serialised
by its function, for its `process_entry` to run.
"""

import os
from typing import Callable

from launchpad import address as lp_address
from launchpad import context
from launchpad import program as lp_program
from launchpad.launch import serialization

ENTRY = 'launchpad.nodes.python.process_entry'


class KnownAddress(lp_address.AbstractAddressBuilder):
  """One that is known when the program is serialised."""

  def __init__(self, address: str):
    """`host:port`."""
    self._address = address

  def build(self) -> str:
    return self._address


def serialise(program: lp_program.Program, directory: str,
              make_address: Callable[[str, int, str],
                                     lp_address.AbstractAddressBuilder],
              stop_program: Callable[..., None]) -> dict[str, list[str]]:
  """Writes one file per label, with the nodes of that label.

  Args:
    program: not launched yet.
    directory: of the files, `<label>.pkl`.
    make_address: of a node's label, its number within the label, and the
      address's name.
    stop_program: what `lp.stop()` does in a node.

  Returns:
    The names of the addresses that each node of a label has, by label.
  """
  for nodes in program.groups.values():
    for node in nodes:
      node.launch_context.initialize(
          context.LaunchType.LOCAL_MULTI_PROCESSING, None, stop_program)
  for label, nodes in program.groups.items():
    for node in nodes:
      for handle in node.input_handles:
        handle.connect(node, label)
  for label, nodes in program.groups.items():
    for number, node in enumerate(nodes):
      for address in node.addresses:
        address.bind(make_address(label, number, address.name))
  for label, nodes in program.groups.items():
    serialization.serialize_functions(
        os.path.join(directory, f'{label}.pkl'), label,
        [node.function for node in nodes])
  return {label: [address.name for address in nodes[0].addresses]
          for label, nodes in program.groups.items()}
