"""The initial rule of a meta-training: random, or a saved one."""

import dataclasses
import os

import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from lpg_distributed.store import run_directory


def first_state(config: config_lib.Config, run_dir: str = ''
                ) -> meta_update.MetaState:
  """Returns the state before the first meta-step.

  The run directory's own copy of `run.initial_rule` is used if it exists.

  Its eta is that of `run.initial_rule`, if set, else random. A saved rule
  without the input pi(a|s), or without the age, may begin a run whose rule has
  it. The weights of that input are then 0, so both rules give the same targets
  at first. It may also begin a run with another `rule.reward_input`.

  Raises:
    UserError: there is no such rule, or its form differs from `config.rule`.
  """
  name = config.run.initial_rule
  if not name:
    return meta_update.init(config)
  copy = run_dir and run_directory.initial_rule_path(run_dir)
  file = eta_file.load(copy if copy and os.path.exists(copy)
                       else published.resolve(name))
  wanted = config.rule
  if wanted != dataclasses.replace(
      file.rule, reward_input=wanted.reward_input,
      sees_policy=file.rule.sees_policy or wanted.sees_policy,
      sees_age=file.rule.sees_age or wanted.sees_age):
    raise config_lib.ConfigError(
        f'run.initial_rule is {name!r}, a {file.rule}; allowed: one with the '
        f'run\'s own, {config.rule}')
  eta = rule_vector.unravel(file.rule, jnp.asarray(file.eta))
  if wanted.sees_age and not file.rule.sees_age:
    eta = lpg_network.add_age(eta)
  return meta_update.begin(config.meta, rule_vector.ravel(eta))
