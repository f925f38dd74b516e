"""The meta-update: Adam on eta with the mean meta-gradient (Table 2)."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_vector


class MetaState(NamedTuple):
  """The rule and its optimiser's state."""
  eta: chex.Array  # [P], the rule as one vector
  opt_state: optax.OptState


def _learning_rate(config: config_lib.MetaConfig) -> optax.ScalarOrSchedule:
  """Returns the learning rate, or a function from the meta-step to it."""
  if not config.learning_rate_decay_steps:
    return config.learning_rate
  return optax.cosine_decay_schedule(
      config.learning_rate, config.learning_rate_decay_steps,
      alpha=config.final_learning_rate / config.learning_rate)


def _optimiser(config: config_lib.MetaConfig) -> optax.GradientTransformation:
  clip = (optax.clip_by_global_norm(config.max_gradient_norm)
          if config.max_gradient_norm else optax.identity())
  return optax.chain(clip, optax.adam(_learning_rate(config)))


def init(config: config_lib.Config) -> MetaState:
  """Draws a new rule from the run's seed."""
  vector = rule_vector.ravel(
      rule_vector.init(config.rule, jax.random.PRNGKey(config.run.seed)))
  return begin(config.meta, vector)


def begin(config: config_lib.MetaConfig, eta: chex.Array) -> MetaState:
  """Returns the state before the first step, for a given `eta`, [P]."""
  return MetaState(eta, _optimiser(config).init(eta))


# All learners of a process share the program, as those of a run that resumes.
@functools.partial(jax.jit, static_argnums=0)
def apply(config: config_lib.MetaConfig, state: MetaState,
          gradient_sum: chex.Array,
          num_lifetimes: chex.Array) -> tuple[MetaState, chex.Array]:
  """Takes one step of Adam on the mean gradient over lifetimes.

  Args:
    config: clipping and learning rate. The state counts the steps of its decay.
    state: the state before the step.
    gradient_sum: [P], sum over lifetimes, to descend.
    num_lifetimes: [], number of lifetimes in the sum.

  Returns:
    The new state, and the norm of the mean gradient before clipping, [].
  """
  gradient = gradient_sum / num_lifetimes
  updates, opt_state = _optimiser(config).update(
      gradient, state.opt_state, state.eta)
  eta = optax.apply_updates(state.eta, updates)
  return MetaState(eta, opt_state), jnp.linalg.norm(gradient)
