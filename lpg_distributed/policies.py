"""Trained policies: make them of agents, save them, load them.

Part of the public interface, as `lpg.make_policy`, `lpg.save_policy` and
`lpg.load_policy`.
"""

import os
from typing import Any, Mapping, Optional

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import fields
from lpg_distributed import global_settings
from lpg_distributed.core import agent_networks
from lpg_distributed.core import policy as policy_lib
from lpg_distributed.core import train_agents as train_agents_lib
from lpg_distributed.envs import suite
from lpg_distributed.store import policy_file

Policy = policy_lib.Policy


def make_policy(agents: train_agents_lib.Lifetimes, environment: str,
                index: int = 0) -> Policy:
  """Makes a policy of one of the agents that `train_agents` returned.

  Args:
    agents: result of `train_agents`.
    environment: name of the environment that they learned in.
    index: which agent, from 0.

  Returns:
    The policy; its `env_params` are the layout that this agent learned.

  Raises:
    ValueError: no such environment or agent, or the agents learned in another
      environment.
  """
  global_settings.check()
  made = suite.load(environment)
  index = fields.Integer(0, len(agents.final_return) - 1).check('index', index)
  theta, env_params = jax.tree_util.tree_map(
      lambda x: np.asarray(x[index]), (agents.theta, agents.env_params))
  agent = config_lib.ALL_AGENTS[environment]
  if agent.is_table != (not isinstance(theta, Mapping)):
    raise _other_environment(environment)
  form = policy_lib.Form(environment, made.observation_spec(),
                         int(made.action_spec().num_values),
                         agent_networks.width(theta), agent)
  shapes = lambda tree: jax.tree_util.tree_map(jnp.shape, tree)
  wanted = jax.eval_shape(policy_lib.make_network(form).init,
                          jax.random.PRNGKey(0))
  if shapes(theta) != shapes(wanted):
    raise _other_environment(environment)
  return Policy(form, theta, made.action_mask(env_params), env_params)


def _other_environment(environment: str) -> policy_lib.PolicyError:
  return policy_lib.PolicyError(
      f'these agents did not learn in {environment}; allowed: the name that '
      'train_agents got')


def save_policy(path: str, policy: Policy, **info: Any) -> None:
  """Writes a policy as `.npz`, with the form of its network inside.

  The file is written whole or not at all.

  Args:
    path: of the file.
    policy: to be saved. Its `env_params` are kept if the environment is one of
      the training environments.
    **info: added to `policy.info`; must be what JSON knows.
  """
  policy_file.save(path, policy, **info)


def load_policy(path: str, seed: Optional[int] = None) -> Policy:
  """Reads a trained policy, from which no code is imported.

  Args:
    path: of a file that `save_policy` wrote; or the directory of a job of
      `meta_test` or `lpg meta-test`, once an agent of it is trained.
    seed: of the job's agent; None: the first one that is trained.

  Raises:
    PolicyFileError: no such file or agent, or one cut short or of something
      else.
  """
  global_settings.check()
  if not os.path.isdir(path):
    if seed is not None:
      raise policy_file.PolicyFileError(
          f'{path} is no directory of a job; allowed: no seed')
    return policy_file.load(path)
  files = policy_file.in_directory(path)
  if not files:
    raise policy_file.PolicyFileError(f'{path} has no trained agent')
  seed = min(files) if seed is None else seed
  if seed not in files:
    raise policy_file.PolicyFileError(
        f'{path} has no trained agent of seed {seed}; allowed: '
        f'{", ".join(map(str, sorted(files)))}')
  return policy_file.load(files[seed])
