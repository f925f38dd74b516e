"""The meta-update: averaged meta-gradients into eta, by Adam (Table 2)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_vector


class MetaState(NamedTuple):
  eta: chex.Array  # [P], the rule as one vector
  opt_state: optax.OptState


def _optimiser(config: config_lib.MetaConfig) -> optax.GradientTransformation:
  clip = (optax.clip_by_global_norm(config.max_gradient_norm)
          if config.max_gradient_norm else optax.identity())
  return optax.chain(clip, optax.adam(config.learning_rate))


def init(config: config_lib.Config) -> MetaState:
  """A new rule, drawn from the run's seed."""
  vector = rule_vector.ravel(
      rule_vector.init(config.rule, jax.random.PRNGKey(config.run.seed)))
  return begin(config.meta, vector)


def begin(config: config_lib.MetaConfig, eta: chex.Array) -> MetaState:
  """Before the first step from `eta`, [P]."""
  return MetaState(eta, _optimiser(config).init(eta))


def apply(config: config_lib.MetaConfig, state: MetaState,
          gradient_sum: chex.Array,
          num_lifetimes: chex.Array) -> tuple[MetaState, chex.Array]:
  """One step down the mean over lifetimes; returns the mean's norm as well."""
  gradient = gradient_sum / num_lifetimes
  updates, opt_state = _optimiser(config).update(
      gradient, state.opt_state, state.eta)
  eta = optax.apply_updates(state.eta, updates)
  return MetaState(eta, opt_state), jnp.linalg.norm(gradient)
