"""Checks the arguments of `lpg.apply_rule`, and applies the rule."""

import functools
from typing import Mapping

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed import types
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry


def _check_shapes(num_predictions: int, reward: chex.Array, y: chex.Array,
                  steps: Mapping[str, chex.Array]) -> None:
  """Raises ArgumentError unless `steps` have the shape of the reward."""
  shape = jnp.shape(reward)
  expected = {name: (jnp.shape(x), shape) for name, x in steps.items()}
  expected['y'] = (jnp.shape(y), (shape[0] + 1, *shape[1:], num_predictions)
                   if shape else None)
  for name, (found, allowed) in expected.items():
    if found != allowed:
      raise errors.ArgumentError(
          f'{name} has shape {found}; with a reward of shape {shape} allowed: '
          f'{allowed}')


def apply(config: config_lib.RuleConfig, eta: chex.Array, reward: chex.Array,
          gamma: chex.Numeric, y: chex.Array, steps: Mapping[str, chex.Array],
          life: base.Life) -> types.LPGTargets:
  """Computes targets; see `api.apply_rule`.

  Args:
    config: sizes of the rule.
    eta: [P].
    reward: [T, ...].
    gamma: [] or [T, ...].
    y: [T+1, ..., M].
    steps: `discount`, `action_probability` and others, [T, ...] each.
    life: each [], [T, ...] or None.

  Raises:
    UserError: the rule has no y or other inputs, an input is missing, or shapes
      do not match.
  """
  if registry.make_learned(config).predictions is None:
    kinds = ', '.join(rule_vector.predicting_kinds())
    raise errors.ArgumentError(f'this rule is of kind {config.kind}, which has '
                               f'no y; allowed: {kinds}')
  rule_vector.require_lpg_network(config, 'apply_rule', same_inputs=True)
  wide = {'gamma': gamma, **life._asdict()}
  _check_shapes(config.num_predictions, reward, y, {
      **steps, **{name: x for name, x in wide.items()
                if x is not None and jnp.ndim(x)}})
  steps = dict(steps)
  inputs = {'gamma': jnp.broadcast_to(gamma, jnp.shape(reward)), 'y': y,
            'discount_t': steps.pop('discount'), **steps,
            **rule_inputs.from_life(config, reward, life)}
  return _apply(config, jnp.asarray(eta), rule_inputs.RuleInput(
      **{name: jnp.asarray(x, jnp.float32) for name, x in inputs.items()}))


# Without `jit`, each call would compile the LSTM's loop again.
@functools.partial(jax.jit, static_argnums=0)
def _apply(config: config_lib.RuleConfig, eta: chex.Array,
           inputs: rule_inputs.RuleInput) -> types.LPGTargets:
  return lpg_network.apply(rule_vector.unravel(config, eta), inputs)
