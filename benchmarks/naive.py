"""A meta-step with the plain formulation of the rule, as a baseline for speed.

The rule is Haiku's LSTM under `hk.dynamic_unroll`, applied to each lifetime
under `vmap`. The rest of the meta-step is unchanged.
"""

import contextlib
from unittest import mock

import jax

from lpg_distributed import config as config_lib
from lpg_distributed.core import lpg_network


@contextlib.contextmanager
def naive_rule(config: config_lib.RuleConfig):
  """Within this context, traced programs use the plain rule."""
  def apply(eta, inputs):
    one = lambda inputs: lpg_network.apply_reference(eta, config, inputs)
    return jax.vmap(one, in_axes=1, out_axes=1)(inputs)

  with mock.patch.object(lpg_network, 'apply', apply):
    yield
