"""The rule that a meta-training begins with: drawn, or one that is there."""

import dataclasses

import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.store import eta_file
from lpg_distributed.store import published


def first_state(config: config_lib.Config) -> meta_update.MetaState:
  """Before the first meta-step; of `run.initial_rule`, if it names one.

  A rule that does not see pi(a|s) can begin one that does: it then says the
  same at first, and the weights that read pi(a|s) grow from 0.

  Raises:
    UserError: there is no such rule, or it is of another form than `rule`.
  """
  name = config.run.initial_rule
  if not name:
    return meta_update.init(config)
  file = eta_file.load(published.resolve(name))
  if config.rule not in (file.rule,
                         dataclasses.replace(file.rule, sees_policy=True)):
    raise config_lib.ConfigError(
        f'run.initial_rule is {name!r}, a {file.rule}; allowed: one with the '
        f'run\'s own, {config.rule}')
  eta = rule_vector.ravel(rule_vector.unravel(file.rule,
                                              jnp.asarray(file.eta)))
  return meta_update.begin(config.meta, eta)
