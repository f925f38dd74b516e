"""A2C on the training environments, Section 4.1; as fair as we know how.

The agent's policy is that of Table 3, with its optimiser; the critic is the
one that serves the meta-gradient (`critic`), so that A2C here is the
outer algorithm by itself. The paper does not say how its A2C was tuned: here
per environment, over `grid`, on lifetimes that the comparison does not see.
"""

from typing import Optional

import chex
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry

# Beyond the bandit's largest learning rate: targets of LPG have a scale that
# was learned for these rates, those of A2C have not.
LARGER_RATES = (2., 4., 8.)
# Table 2's beta_0, none, and a larger one.
ENTROPY_COSTS = (0., 0.01, 0.02, 0.05)


def learning_rates(agent: config_lib.AgentConfig) -> tuple[float, ...]:
  """The bandit's learning rates, and larger ones."""
  return (*agent.learning_rates,
          *(max(agent.learning_rates) * factor for factor in LARGER_RATES))


def grid(agent: config_lib.AgentConfig) -> tuple[tuple[float, float], ...]:
  """A2C's (learning rate, entropy cost) pairs."""
  return tuple((rate, cost) for rate in learning_rates(agent)
               for cost in ENTROPY_COSTS)


def a2c(config: config_lib.Config,
        kind: meta_gradient.Kind) -> train_agents.Learner:
  """Agents of A2C; beta_0 weighs their entropy."""
  kind = kind._replace(rule=registry.make('a2c'))

  def update(task, progress):
    theta, opt_state, _ = meta_gradient.update_agents(
        kind, config, (), progress.theta, progress.opt_state,
        progress.trajectory, task, meta_gradient.seen_values(kind, progress))
    # Afterwards: advantages are those of the critic before it learns from this
    # trajectory, as in the meta-gradient.
    progress, _ = meta_gradient.learn_values(kind, task, progress)
    return progress._replace(theta=theta, opt_state=opt_state), {}

  return train_agents.Learner(update)


def hyper_params(pairs: chex.Array, gamma: float) -> types.HyperParams:
  """Lifetimes of A2C with [L, 2] learning rates and entropy costs."""
  zeros = jnp.zeros(len(pairs))
  return types.HyperParams(zeros.astype(jnp.int32), pairs[:, 0], zeros,
                           jnp.full(len(pairs), gamma), pairs[:, 1])


def train_a2c(config: config_lib.Config, environment: str, key: chex.PRNGKey,
              pairs: chex.Array, updates: Optional[int] = None
              ) -> train_agents.Lifetimes:
  """Lives a lifetime for each of the `pairs` [L, 2] of `hyper_params`.

  The discount factor is the largest of `config.meta.discounts`: returns are
  judged undiscounted. The other arguments are those of
  `train_agents.train_agents`; the same key gives the same layouts.
  """
  if updates is None:
    updates = train_agents.num_updates(config, environment)
  arms = jnp.zeros(len(config.agents[environment].arms))
  return train_agents.live(
      config, environment, lambda kind: a2c(config, kind), key, len(pairs),
      arms, updates, hyper=hyper_params(
          jnp.asarray(pairs, jnp.float32), max(config.meta.discounts)))[0]
