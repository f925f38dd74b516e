"""Checks the environments of a run that are not of the suite, before it starts.

  python -m lpg_distributed.core.environment_check < CONFIG.json

As a process of its own it leaves accelerators alone, and a launcher need not
import the user's module.
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
  """Loads and runs the environments that are not of the suite.

  Raises:
    ConfigError: one breaks the protocol, or does not fit its row of `agents`.
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
  """Traces the birth of a lifetime, which needs the agent's network."""
  kind = lifetime.make_kind(config, name)

  def birth(key):
    return lifetime.birth(config, name, kind, key,
                          jnp.zeros(len(config.agents[name].arms)))

  try:
    jax.eval_shape(birth, jax.random.PRNGKey(0))
  except ValueError:
    raise
  except Exception as error:  # Such as layers that do not fit.
    raise ValueError(f'agents.{name} does not fit what it observes ('
                     f'{" ".join(str(error).split())[:200]})') from None


def with_environments(config: config_lib.Config, environments: Sequence[Any],
                      agents: Mapping[str, config_lib.AgentConfig]
                      ) -> config_lib.Config:
  """`config` with other environments and more rows of agents."""
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
