"""LPG without softmax (Section 4.4): y is a vector, not a distribution."""

import chex
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import lpg_network
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import lpg


def squared_error(y: chex.Array, y_hat: chex.Array) -> chex.Array:
  """||y - y_hat||^2 over the last axis; it replaces the KL divergence."""
  return jnp.sum(jnp.square(y - y_hat), axis=-1)


VECTOR = base.Predictions(lambda y: y, squared_error, is_distribution=False)


def make(config: config_lib.RuleConfig,
         network: base.Network = lpg_network.apply) -> base.UpdateRule:
  """Makes the LPG whose y and y_hat are vectors."""
  return lpg.make_with(config, VECTOR, network)
