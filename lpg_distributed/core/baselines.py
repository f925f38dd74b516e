"""A2C on the training environments, the baseline of Section 4.1.

The agent has the policy and the optimiser of Table 3. Critic and advantages are
those of the meta-gradient (`critic`): if `config.outer.advantage_ema_decay` is
set, advantages are divided by their running root mean square. So this A2C is
the algorithm that estimates Eq. (4), applied directly to agents.

The paper does not say how its A2C was tuned. Here all five numbers of
`A2CHyperparameters` are tuned per environment, by `analysis.tuning`, on
lifetimes that the comparison does not use.
"""

from typing import NamedTuple, Optional

import chex
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry


class A2CHyperparameters(NamedTuple):
  """Hyperparameters of A2C; [L] each, traced."""
  learning_rate: chex.Array  # of the policy
  entropy_cost: chex.Array
  critic_rate: chex.Array  # tables: in (0, 1]; networks: Adam's learning rate
  td_lambda: chex.Array
  gamma: chex.Array


def a2c(config: config_lib.Config,
        kind: meta_gradient.Kind) -> train_agents.LifetimeLearner:
  """Returns the learner of agents that learn by A2C.

  The entropy cost of an agent is its `hyper.beta_0`.
  """
  def update(task, progress):
    # The critic computes advantages before it learns from this trajectory, as
    # in the meta-gradient.
    after, advantage = meta_gradient.learn_values(kind, task, progress)
    rule = registry.make('a2c')._replace(
        compute_targets=lambda *_: (base.Targets(advantage), {}))
    theta, opt_state, _ = meta_gradient.update_agents(
        kind._replace(rule=rule), config, (), progress.theta,
        progress.opt_state, progress.trajectory, task)
    return after._replace(theta=theta, opt_state=opt_state), {}

  return train_agents.LifetimeLearner(update)


def hyper_params(hyper: A2CHyperparameters) -> types.LifetimeHyperparameters:
  """Returns the hyperparameters of L lifetimes of A2C."""
  hyper = A2CHyperparameters(*(jnp.asarray(x, jnp.float32) for x in hyper))
  zeros = jnp.zeros_like(hyper.learning_rate)
  return types.LifetimeHyperparameters(
      zeros.astype(jnp.int32), hyper.learning_rate, zeros, hyper.gamma,
      hyper.entropy_cost, hyper.td_lambda, hyper.critic_rate)


def train_a2c(config: config_lib.Config, environment: str, key: chex.PRNGKey,
              hyper: A2CHyperparameters, updates: Optional[int] = None
              ) -> train_agents.Lifetimes:
  """Simulates L lifetimes of A2C, each with its own hyperparameters.

  The other arguments are those of `train_agents.train_agents`; the same key
  gives the same layouts.
  """
  if updates is None:
    updates = train_agents.num_updates(config, environment)
  arms = jnp.zeros(len(config.agents[environment].arms))
  return train_agents.simulate(
      config, environment, lambda kind: a2c(config, kind), key,
      len(hyper.learning_rate), arms, updates, hyper=hyper_params(hyper))[0]
