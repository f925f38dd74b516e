"""Serialises a Launchpad program for hosts where Launchpad starts no nodes.

It sets up the nodes' contexts, handles and addresses as Launchpad's launcher of
local processes does. It serialises nodes by Launchpad's function, and
Launchpad's `process_entry` runs them.
"""

import os
from typing import Callable

from launchpad import address as lp_address
from launchpad import context
from launchpad import program as lp_program
from launchpad.launch import serialization

ENTRY = 'launchpad.nodes.python.process_entry'


class KnownAddress(lp_address.AbstractAddressBuilder):
  """An address that is known when the program is serialised."""

  def __init__(self, address: str):
    """Takes the address as `host:port`."""
    self._address = address

  def build(self) -> str:
    """Returns the address."""
    return self._address


def serialise(program: lp_program.Program, directory: str,
              make_address: Callable[[str, int, str],
                                     lp_address.AbstractAddressBuilder],
              stop_program: Callable[..., None]) -> dict[str, list[str]]:
  """Writes a file per label, with the nodes of that label.

  Args:
    program: a program that was not launched.
    directory: directory of the files, `<label>.pkl`.
    make_address: makes an address from a node's label, its number within the
      label, and the address's name.
    stop_program: called by `lp.stop()` in a node.

  Returns:
    The names of a node's addresses, by label.
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
