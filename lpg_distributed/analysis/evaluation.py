"""Evaluates a rule on held-out lifetimes, which its training did not use."""

import functools
from typing import Any, NamedTuple, Optional

import chex
import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import suite
from lpg_distributed.figures import intervals
from lpg_distributed.store import saved_bandit

# Folded into the key in place of a shard id, which is always smaller.
_HELD_OUT = 2 ** 31 - 1


class KindScore(NamedTuple):
  """Statistics of the final returns of lifetimes of one kind."""
  mean: float
  standard_error: float
  num_lifetimes: int


class Variant(NamedTuple):
  """A variant of a rule."""
  eta: np.ndarray  # [P]
  kl_cost: Optional[float] = None  # overrides the bandit's; 0: y is not learned
  # Name of an input of the rule, `phi` or one of `rule_inputs.names`. It is
  # held at its mean under another variant, which must come earlier.
  held: Optional[str] = None
  held_of: Optional[str] = None


def with_ablations(config: config_lib.RuleConfig, eta: np.ndarray, full: str,
                   no_y: str, held_phi: str, held_age: str
                   ) -> dict[str, Variant]:
  """Returns a rule and its ablations, by name.

  Only those that the rule permits: inputs can be held in `lpg_network`.

  Args:
    config: sizes of the rule.
    eta: [P].
    full: name of the unchanged rule.
    no_y: name of the variant whose agents never learn y (alpha_y = 0).
    held_phi: name of the variant with phi held at its mean.
    held_age: name of the variant with t / T held at its mean, of a rule that
      sees the age.
  """
  variants = {full: Variant(eta)}
  if rule_vector.has_lpg_network(config):
    variants[held_phi] = Variant(eta, held='phi', held_of=full)
    if config.sees_age:
      variants[held_age] = Variant(eta, held='relative_age', held_of=full)
  if registry.make_learned(config).predictions is not None:
    variants[no_y] = Variant(eta, kl_cost=0.)
  return variants


def held_out_key(seed: int, stream: int) -> chex.PRNGKey:
  """Returns the key of held-out lifetimes.

  Different numbers `stream` give independent lifetimes, one for each use.
  """
  return jax.random.fold_in(
      jax.random.fold_in(jax.random.PRNGKey(seed), _HELD_OUT), stream)


def hold(config: config_lib.RuleConfig, eta: np.ndarray, name: str,
         value: float) -> np.ndarray:
  """Changes eta so that an input is held at `value`.

  Args:
    config: sizes of the rule.
    eta: [P].
    name: `phi`, or one of `rule_inputs.names`.
    value: the constant.

  Returns:
    [P].
  """
  tree = rule_vector.unravel(config, eta)
  return rule_vector.ravel(
      lpg_network.hold_phi(tree, value) if name == 'phi'
      else lpg_network.hold_input(tree, name, value))


def only_arm(arm: int, num_arms: int) -> np.ndarray:
  """Returns log-probabilities, [arms], that always draw `arm`."""
  with np.errstate(divide='ignore'):
    return np.log(np.eye(num_arms, dtype=np.float32)[arm])


class LifetimeSimulator:
  """Simulates whole lifetimes of one kind under any eta; compiled once."""

  def __init__(self, config: config_lib.Config, environment: str,
               num_lifetimes: int):
    self._config, self._environment = config, environment
    self._num_lifetimes = num_lifetimes
    self._compiled = functools.lru_cache(None)(self._compile)

  def _compile(self, kl_cost):
    def simulate(eta, key, log_probs, hyper):
      lifetimes = train_agents.train_agents(
          self._config, self._environment, eta, key, self._num_lifetimes,
          log_probs, kl_cost=kl_cost, hyper=hyper)
      return lifetimes._replace(theta=(), env_params=())
    return jax.jit(simulate)

  def __call__(self, eta: np.ndarray, key: chex.PRNGKey,
               log_probs: np.ndarray, kl_cost: Optional[float] = None,
               hyper: Optional[types.LifetimeHyperparameters] = None
               ) -> train_agents.Lifetimes:
    """Runs `train_agents.train_agents`; returns NumPy arrays, without theta."""
    return jax.tree_util.tree_map(
        np.asarray, self._compiled(kl_cost)(eta, key, log_probs, hyper))


def input_means(lifetimes: train_agents.Lifetimes) -> dict[str, float]:
  """Mean of each of the rule's inputs over lifetimes and updates.

  Values that are not finite are left out.
  """
  means = {}
  for name, values in lifetimes.input_means.items():
    values = np.asarray(values, np.float64)
    means[name] = values[np.isfinite(values)].mean()
  return means


class Comparison:
  """Compares variants of a run's rule on the same lifetimes of one kind."""

  def __init__(self, config: config_lib.Config, environment: str,
               num_lifetimes: int):
    self._config, self._environment = config, environment
    self._num_lifetimes = num_lifetimes
    self._simulate = LifetimeSimulator(config, environment, num_lifetimes)
    # By name, so that other environments of the run do not change it.
    self._key = held_out_key(config.run.seed, suite.seed_number(environment))

  def scores(self, variants: dict[str, Variant],
             bandit_state: Optional[dict[str, Any]]) -> dict[str, KindScore]:
    """Scores the variants; see `evaluate`."""
    log_probs = np.zeros(
        len(self._config.agents[self._environment].arms), np.float32)
    if bandit_state is not None:
      log_probs = saved_bandit.read(
          self._config, bandit_state).log_probabilities(self._environment)
    scores, means = {}, {}
    for name, variant in variants.items():
      eta = variant.eta
      if variant.held is not None:
        eta = hold(self._config.rule, eta, variant.held,
                   means[variant.held_of][variant.held])
      lifetimes = self._simulate(eta, self._key, log_probs, variant.kl_cost)
      means[name] = input_means(lifetimes)
      returns = np.asarray(lifetimes.final_return, np.float64)
      scores[name] = KindScore(
          float(returns.mean()), float(intervals.standard_error(returns)),
          self._num_lifetimes)
    return scores


def evaluate(config: config_lib.Config, environment: str,
             variants: dict[str, Variant],
             bandit_state: Optional[dict[str, Any]],
             num_lifetimes: int) -> dict[str, KindScore]:
  """Simulates whole lifetimes of one kind with each variant of a rule.

  Layouts, hyperparameters and random numbers are the same for all variants.
  Hyperparameters are drawn from the bandit in `bandit_state` (see
  `BanditServer.get_state`), or uniformly if that is None.
  """
  return Comparison(config, environment, num_lifetimes).scores(
      variants, bandit_state)
