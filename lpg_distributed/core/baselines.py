"""A2C on the training environments, the baseline of Section 4.1.

The agent has the policy and the optimiser of Table 3. The critic is the one of
the meta-gradient (`critic`), so A2C here is the outer algorithm by itself. The
paper does not say how its A2C was tuned. Here it is tuned per environment, over
`grid`, on lifetimes that the comparison does not use.
"""

from typing import Optional

import chex
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry

# Multiples of the bandit's largest learning rate. LPG learns the scale of its
# targets for the bandit's rates; A2C does not, so it may need larger rates.
LARGER_RATES = (2., 4., 8.)
# No entropy bonus, the values of beta_0 in Table 2, and a larger one.
ENTROPY_COSTS = (0., 0.01, 0.02, 0.05)


def learning_rates(agent: config_lib.AgentConfig) -> tuple[float, ...]:
  """The bandit's learning rates, then larger ones."""
  return (*agent.learning_rates,
          *(max(agent.learning_rates) * factor for factor in LARGER_RATES))


def grid(agent: config_lib.AgentConfig) -> tuple[tuple[float, float], ...]:
  """The (learning rate, entropy cost) pairs that A2C is tuned over."""
  return tuple((rate, cost) for rate in learning_rates(agent)
               for cost in ENTROPY_COSTS)


def a2c(config: config_lib.Config,
        kind: meta_gradient.Kind) -> train_agents.LifetimeLearner:
  """A learner of agents that learn by A2C; beta_0 is their entropy cost."""
  kind = kind._replace(rule=registry.make('a2c'))

  def update(task, progress):
    theta, opt_state, _ = meta_gradient.update_agents(
        kind, config, (), progress.theta, progress.opt_state,
        progress.trajectory, task,
        meta_gradient.value_estimates(kind, progress))
    # The critic learns after the agents: as in the meta-gradient, advantages
    # are those of the critic before it learns from this trajectory.
    progress, _ = meta_gradient.learn_values(kind, task, progress)
    return progress._replace(theta=theta, opt_state=opt_state), {}

  return train_agents.LifetimeLearner(update)


def hyper_params(pairs: chex.Array, gamma: float) -> types.HyperParams:
  """Hyperparameters of L lifetimes of A2C.

  Args:
    pairs: [L, 2], learning rate and entropy cost.
    gamma: the discount factor of all lifetimes.
  """
  zeros = jnp.zeros(len(pairs))
  return types.HyperParams(zeros.astype(jnp.int32), pairs[:, 0], zeros,
                           jnp.full(len(pairs), gamma), pairs[:, 1])


def train_a2c(config: config_lib.Config, environment: str, key: chex.PRNGKey,
              pairs: chex.Array, updates: Optional[int] = None
              ) -> train_agents.Lifetimes:
  """Simulates one lifetime of A2C for each row of `pairs`, [L, 2].

  A row is a learning rate and an entropy cost. The discount factor is the
  largest of `config.meta.discounts`, since undiscounted returns are compared.
  The other arguments are those of `train_agents.train_agents`; the same key
  gives the same layouts.
  """
  if updates is None:
    updates = train_agents.num_updates(config, environment)
  arms = jnp.zeros(len(config.agents[environment].arms))
  return train_agents.simulate(
      config, environment, lambda kind: a2c(config, kind), key, len(pairs),
      arms, updates, hyper=hyper_params(
          jnp.asarray(pairs, jnp.float32), max(config.meta.discounts)))[0]
