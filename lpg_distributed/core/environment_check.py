"""Checks the user's own environments before a run starts.

  python -m lpg_distributed.core.environment_check < CONFIG.json

Launchers run it as a separate process. So the launcher neither imports the
user's module nor occupies an accelerator.
"""

import dataclasses
import json
import sys
from typing import Any, Mapping, Sequence

import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed.core import lifetime
from lpg_distributed.envs import names
from lpg_distributed.envs import protocol
from lpg_distributed.envs import registry


def check(config: config_lib.Config) -> None:
  """Loads and runs the environments of `config` that are the user's own.

  Raises:
    ConfigError: an environment violates the protocol, or the agent in its row
      of `agents` cannot read its observations.
  """
  for name in filter(names.is_own, config.environments):
    try:
      protocol.check(registry.load_trainable(name))
      _check_agent(config, name)
    except (ValueError, ImportError) as error:
      text = ' '.join(str(error).split())
      raise config_lib.ConfigError(
          text if text.startswith(name) else f'{name}: {text}') from None


def _check_agent(config: config_lib.Config, name: str) -> None:
  """Traces the start of a lifetime, which builds the agent's network."""
  kind = lifetime.make_kind(config, name)

  def start(key):
    return lifetime.init_lifetime(config, name, kind, key,
                                  jnp.zeros(len(config.agents[name].arms)))

  try:
    jax.eval_shape(start, jax.random.PRNGKey(0))
  except ValueError:
    raise
  except Exception as error:  # For example layers of the wrong size.
    raise ValueError(f'agents.{name} does not fit its observations ('
                     f'{" ".join(str(error).split())[:200]})') from None


def with_environments(config: config_lib.Config, environments: Sequence[Any],
                      agents: Mapping[str, config_lib.AgentConfig]
                      ) -> config_lib.Config:
  """Returns `config` with other environments and additional rows of agents.

  Args:
    config: the configuration to change.
    environments: names or environment objects; empty keeps those of `config`.
    agents: agents by the name of their environment.

  Raises:
    ConfigError: an object is not an environment.
  """
  if isinstance(environments, str) or not isinstance(environments, Sequence):
    environments = (environments,)
  found = []
  for environment in environments:
    try:
      found.append(environment if isinstance(environment, str)
                   else registry.register(environment))
    except ValueError as error:
      raise config_lib.ConfigError(f'environments: {error}') from None
  rows = {f'object/{name}' if f'object/{name}' in found else name: row
          for name, row in agents.items()}
  if not found and not rows:
    return config
  return dataclasses.replace(
      config, environments=tuple(found) or config.environments,
      shares=() if found else config.shares, agents={**config.agents, **rows})


def main() -> int:
  try:
    check(config_io.from_dict(json.load(sys.stdin)))
  except errors.UserError as error:
    return errors.report(error)
  return 0


if __name__ == '__main__':
  sys.exit(main())
