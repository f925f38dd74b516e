"""The rule that a meta-training begins with: drawn, or one that is there."""

import dataclasses
import os

import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from lpg_distributed.store import run_directory


def first_state(config: config_lib.Config, run_dir: str = ''
                ) -> meta_update.MetaState:
  """The state before the first meta-step; of `run.initial_rule`, if set.

  A run's directory has a copy of that rule, which is used where it is there.

  A rule that does not see pi(a|s) can begin one that does: it then says the
  same at first, and the weights that read pi(a|s) grow from 0.

  Raises:
    UserError: there is no such rule, or it is of another form than `rule`.
  """
  name = config.run.initial_rule
  if not name:
    return meta_update.init(config)
  copy = run_dir and run_directory.initial_rule_path(run_dir)
  file = eta_file.load(copy if copy and os.path.exists(copy)
                       else published.resolve(name))
  if config.rule not in (file.rule,
                         dataclasses.replace(file.rule, sees_policy=True)):
    raise config_lib.ConfigError(
        f'run.initial_rule is {name!r}, a {file.rule}; allowed: one with the '
        f'run\'s own, {config.rule}')
  eta = rule_vector.ravel(rule_vector.unravel(file.rule,
                                              jnp.asarray(file.eta)))
  return meta_update.begin(config.meta, eta)
