"""A trained agent as a function from observations to actions."""

from typing import Any, NamedTuple, Optional

import chex
from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core import distributions
from lpg_distributed.core import observation_networks
from lpg_distributed.core import rollout


class PolicyError(errors.UserError, ValueError):
  """A policy cannot be built, or an observation does not fit it; one line."""


class Form(NamedTuple):
  """Describes a policy's network, so that it can be built again."""
  environment: str  # name of the environment that the agent learned in
  observation_spec: specs.Array
  num_actions: int  # A
  num_outputs: int  # width of the network's rows; the first A are logits
  # The agent's row of Table 3; None: chosen by `observation_networks`.
  agent: Optional[config_lib.AgentConfig] = None


def make_network(form: Form) -> Any:
  """Builds the network of a policy, with functions `init` and `apply`.

  Raises:
    ValueError: no network fits; the message is one line.
  """
  if form.agent is None:
    return observation_networks.make_network(
        form.observation_spec, form.num_outputs)
  return agent_networks.make_network(
      form.agent, form.observation_spec, form.num_outputs)


class Policy:
  """A trained agent as a function from observations to actions.

  It can be called as it is, or under `jax.jit`, `jax.vmap` and `jax.lax.scan`.

  Attributes:
    form: describes the network.
    theta: parameters of the network.
    action_mask: [A] bool, the actions that exist.
    env_params: parameters of the environment that the agent learned in, such
      as its layout; None if they were not kept.
    info: further facts that were saved with the policy, such as its rule.
  """

  def __init__(self, form: Form, theta: types.Params,
               action_mask: Optional[chex.Array] = None,
               env_params: Any = None, info: Optional[dict[str, Any]] = None):
    self.form, self.theta, self.env_params = form, theta, env_params
    self.action_mask = (np.ones(form.num_actions, bool) if action_mask is None
                        else np.asarray(action_mask))
    self.info = info or {}
    self._logits = jax.jit(self._make_logits())

  def _make_logits(self):
    apply, num_actions = make_network(self.form).apply, self.form.num_actions

    def logits(theta, action_mask, observation):
      return jnp.where(action_mask, apply(theta, observation)[
          ..., :num_actions], distributions.MASKED_LOGIT)

    return logits

  def logits(self, observation: chex.Array) -> chex.Array:
    """Logits of the actions, [..., A].

    Args:
      observation: one, or several with any batch axes in front.

    Raises:
      PolicyError: the last axes are not those of an observation.
    """
    wanted, found = self.form.observation_spec.shape, jnp.shape(observation)
    if found[len(found) - len(wanted):] != wanted:
      raise PolicyError(f'the observation has shape {found}; allowed: '
                        f'{wanted}, with any batch axes in front')
    flat = jnp.reshape(observation, (-1, *wanted))
    rows = self._logits(self.theta, self.action_mask, flat)
    return rows.reshape(*found[:len(found) - len(wanted)], -1)

  def probabilities(self, observation: chex.Array) -> chex.Array:
    """pi(a|s) of all actions, [..., A]; see `logits`."""
    return jax.nn.softmax(self.logits(observation))

  def __call__(self, observation: chex.Array,
               key: Optional[chex.PRNGKey] = None) -> chex.Array:
    """Chooses actions, [...] int32.

    Args:
      observation: one, or several with any batch axes in front.
      key: source of randomness, to sample as in training; None: the most
        probable actions.

    Raises:
      PolicyError: see `logits`.
    """
    logits = self.logits(observation)
    if key is None:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return rollout.sample_action(
        logits, jax.random.uniform(key, logits.shape[:-1]), self.action_mask)
