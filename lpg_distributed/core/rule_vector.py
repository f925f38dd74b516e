"""Converts eta between a tree and one vector, the form that is sent."""

import functools

import chex
import jax
from jax import flatten_util
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core.update_rules import registry


@functools.lru_cache(maxsize=None)
def _shapes(config: config_lib.RuleConfig):
  shapes = jax.eval_shape(functools.partial(init, config),
                          jax.random.PRNGKey(0))
  if not config.sees_policy and not lpg_network.is_eta(shapes):
    raise config_lib.ConfigError(
        f'rule.sees_policy is false, but a rule of kind {config.kind} has a '
        'network of its own; allowed: true')
  rule = registry.make_learned(config)
  for name in ('sees_age', 'reward_input'):
    if getattr(config, name) != getattr(rule, name):
      raise config_lib.ConfigError(
          f'rule.{name} is {getattr(config, name)!r}, which a rule of kind '
          f'{config.kind} does not read; allowed: {getattr(rule, name)!r}')
  return shapes


def init(config: config_lib.RuleConfig, key: chex.PRNGKey) -> lpg_network.Eta:
  """Draws the parameters of a new rule, as a tree."""
  return registry.make_learned(config).init(key)


def size(config: config_lib.RuleConfig) -> int:
  """Returns P, the number of the rule's parameters."""
  return sum(leaf.size for leaf in jax.tree_util.tree_leaves(_shapes(config)))


def has_lpg_network(config: config_lib.RuleConfig) -> bool:
  """Whether the rule's network is `lpg_network`, whose inputs can be held."""
  return lpg_network.is_eta(_shapes(config))


def require_lpg_network(config: config_lib.RuleConfig, what: str,
                        same_inputs: bool = False) -> None:
  """Raises ConfigError if the rule has a network of its own.

  Args:
    config: sizes of the rule.
    what: what needs `lpg_network`, for the message.
    same_inputs: whether the network must read the inputs of `lpg_network` and
      no others.
  """
  found = has_lpg_network(config)
  if found and same_inputs:
    rows = _shapes(config)['lpg/lstm/linear']['w'].shape[0]
    # phi(y) of two steps and the LSTM's own state follow the inputs.
    found = rows == len(rule_inputs.names(config)) + 2 + config.lstm_size
  if not found:
    raise config_lib.ConfigError(
        f'{what} is not possible for a rule of kind {config.kind}, which has '
        'a network or inputs of its own; allowed: a rule with the paper\'s')


def ravel(eta: lpg_network.Eta) -> chex.Array:
  """Converts a tree of parameters to a vector [P]."""
  return flatten_util.ravel_pytree(eta)[0]


def unravel(config: config_lib.RuleConfig,
            vector: chex.Array) -> lpg_network.Eta:
  """Converts a vector [P] to a tree of parameters; differentiable.

  If the rule does not see pi(a|s), the weights of that input are set to 0.
  """
  zeros = jax.tree_util.tree_map(
      lambda s: jnp.zeros(s.shape, s.dtype), _shapes(config))
  eta = flatten_util.ravel_pytree(zeros)[1](vector)
  if config.sees_policy:
    return eta
  return lpg_network.hold_input(eta, 'action_probability', 0.)


def predicting_kinds() -> tuple[str, ...]:
  """Returns the values of `rule.kind` whose rules have predictions y."""
  return tuple(kind for kind in registry.learned() if registry.make(
      kind, config_lib.RuleConfig(kind=kind)).predictions is not None)
