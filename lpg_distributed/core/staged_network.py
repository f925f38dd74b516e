"""Networks whose forward pass for acting is reused for learning.

An agent acts on each state before it learns from it, with the same parameters.
So where environments run on the host, learning reuses the activations.
"""

from typing import Any, Callable, NamedTuple, Union

import chex
import jax

from lpg_distributed import types
from lpg_distributed.core import agent_networks


class StagedNetwork(NamedTuple):
  """An `agent_networks.Network` with a separate forward and backward pass."""
  init: Callable[[chex.PRNGKey], types.Params]
  apply: Callable[[types.Params, chex.Array], chex.Array]  # [..., outputs]
  # (theta, observation [N, ...]) -> (rows [N, outputs], activations)
  forward: Callable[..., tuple[chex.Array, Any]]
  # (theta, observation [N, ...], activations of the same theta and
  # observation, d_rows [N, outputs]) -> the gradient of sum(rows * d_rows)
  backward: Callable[..., types.Params]


def staged(network: Union[agent_networks.Network, StagedNetwork]
           ) -> StagedNetwork:
  """Converts any network to a staged one; a plain one keeps no activations."""
  if isinstance(network, StagedNetwork):
    return network

  def backward(theta, observation, activations, d_rows):
    del activations
    _, pullback = jax.vjp(lambda p: network.apply(p, observation), theta)
    return pullback(d_rows)[0]

  return StagedNetwork(
      network.init, network.apply,
      lambda theta, observation: (network.apply(theta, observation), ()),
      backward)
