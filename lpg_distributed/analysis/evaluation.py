"""How good a rule is, on lifetimes that had no part in its training."""

import functools
from typing import Any, Callable, NamedTuple, Optional

import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core import bandit
from lpg_distributed.core import train_agents
from lpg_distributed.nodes import bandit_server

# Folded into the key, where training folds in shard ids.
_HELD_OUT = 2 ** 31 - 1


class Score(NamedTuple):
  """Final returns of lifetimes of one kind."""
  mean: float
  standard_error: float
  num_lifetimes: int


class Variant(NamedTuple):
  """What is compared."""
  eta: np.ndarray  # [P]
  alpha_y: Optional[float] = None  # overrides the bandit's; 0: y unused


def evaluate(config: config_lib.Config, environment: str,
             variants: dict[str, Variant],
             bandit_state: Optional[dict[str, Any]],
             num_lifetimes: int) -> dict[str, Score]:
  """Lives whole lifetimes of one kind with each variant of a rule.

  Layouts, hyperparameters and random numbers are the same for all. They are
  drawn from what `bandit_state` (see `BanditServer.get_state`) has learned,
  uniformly where it is None.
  """
  log_probs = np.zeros(len(config.agents[environment].arms), np.float32)
  if bandit_state is not None:
    server = bandit_server.BanditServer(config, bandit_state)
    log_probs = np.asarray(server.get_log_probabilities(
        environment)['log_probabilities'], np.float32)
  key = jax.random.fold_in(jax.random.fold_in(
      jax.random.PRNGKey(config.run.seed), _HELD_OUT),
      config.environments.index(environment))
  live: Callable[[Optional[float]], Any] = functools.lru_cache(None)(
      lambda alpha_y: jax.jit(lambda eta: train_agents.train_agents(
          config, environment, eta, key, num_lifetimes, log_probs,
          alpha_y=alpha_y).final_return))
  scores = {}
  for name, variant in variants.items():
    returns = np.asarray(live(variant.alpha_y)(variant.eta), np.float64)
    scores[name] = Score(
        float(returns.mean()),
        float(returns.std(ddof=1) / np.sqrt(num_lifetimes)), num_lifetimes)
  return scores
