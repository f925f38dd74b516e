"""What an agent predicts, and how a prediction is moved to its target.

LPG's y is a categorical distribution. The ablation without softmax makes it a
vector, and LPG-V (both of Section 4.1 and 4.4) has none: its rule sees V(s),
which is learned by TD(lambda) and by no rule.
"""

from typing import Callable, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.core import agent_update


class Predictions(NamedTuple):
  """One kind of prediction, as pure functions of the agent's outputs."""
  num: int  # M, of the agent's outputs beside the policy's; 0: none
  # [..., M] outputs, the agent's or the rule's, to y or y_hat.
  represent: Callable[[chex.Array], chex.Array]
  # (the agent's outputs, the rule's) to [...], what alpha_y weighs in Eq. (2).
  distance: Callable[[chex.Array, chex.Array], chex.Array]
  is_distribution: bool  # so that there is an entropy H(y), Eq. (4)
  sees_values: bool = False  # the rule sees V(s) in place of y(s)


def squared_error(y: chex.Array, y_hat: chex.Array) -> chex.Array:
  """||y - y_hat||^2 over the last axis; Section 4.4, without softmax."""
  return jnp.sum(jnp.square(y - y_hat), axis=-1)


def _identity(y: chex.Array) -> chex.Array:
  return y


def _nothing(y: chex.Array, y_hat: Optional[chex.Array]) -> chex.Array:
  del y_hat
  return jnp.zeros(y.shape[:-1])


def make(config: config_lib.RuleConfig) -> Predictions:
  """The predictions that agents of a rule of this kind make."""
  return {
      'lpg': lambda: Predictions(
          config.num_predictions, jax.nn.softmax, agent_update.kl_divergence,
          is_distribution=True),
      'lpg_vector': lambda: Predictions(
          config.num_predictions, _identity, squared_error,
          is_distribution=False),
      'lpg_v': lambda: Predictions(
          0, _identity, _nothing, is_distribution=False, sees_values=True),
  }[config.kind]()
