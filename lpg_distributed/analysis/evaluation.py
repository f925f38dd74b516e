"""How good a rule is, on lifetimes that had no part in its training."""

import functools
from typing import Any, NamedTuple, Optional

import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_vector
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
  alpha_y: Optional[float] = None  # overrides the bandit's; 0: y not learned
  # Holds phi(y) at its mean over the states visited under this other variant,
  # which stands before; what y says is not seen then.
  phi_of: Optional[str] = None


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

  @functools.lru_cache(None)
  def compiled(alpha_y):
    def live(eta):
      lifetimes = train_agents.train_agents(
          config, environment, eta, key, num_lifetimes, log_probs,
          alpha_y=alpha_y)
      return lifetimes.final_return, lifetimes.phi
    return jax.jit(live)

  scores, mean_phi = {}, {}
  for name, variant in variants.items():
    eta = variant.eta
    if variant.phi_of is not None:
      eta = rule_vector.ravel(lpg_network.hold_phi(
          rule_vector.unravel(config.rule, eta), mean_phi[variant.phi_of]))
    returns, phi = (np.asarray(x, np.float64)
                    for x in compiled(variant.alpha_y)(eta))
    mean_phi[name] = phi[np.isfinite(phi)].mean()
    scores[name] = Score(
        float(returns.mean()),
        float(returns.std(ddof=1) / np.sqrt(num_lifetimes)), num_lifetimes)
  return scores
