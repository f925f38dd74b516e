"""A trained policy as a file: an `.npz` of its arrays, its form as JSON."""

import contextlib
import math
import os
import re
from typing import Any, Mapping

from dm_env import specs
import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed import files
from lpg_distributed.core import policy as policy_lib
from lpg_distributed.envs import suite
from lpg_distributed.store import tree_file

_FILE = 'policy.npz'
_FORMAT = 'lpg-policy-1'
_LARGEST = 1 << 28  # bytes of theta; the network of Table 4 has 7 million
_MOST_FEATURES = 1 << 22  # numbers in one observation
_MOST_AXES = 8
_MOST_LAYERS = 16


class PolicyFileError(errors.UserError, ValueError):
  """A file that is no policy; the message is one line."""


def path_in(directory: str, seed: int) -> str:
  """Path of the policy that a job of meta-testing trained for a seed."""
  return os.path.join(directory, f'agent_seed{seed}', _FILE)


def in_directory(directory: str) -> dict[int, str]:
  """Paths of the policies that a job of meta-testing trained, by seed."""
  found = {}
  for name in os.listdir(directory):
    match = re.fullmatch(r'agent_seed(\d{1,18})', name, re.ASCII)
    if match and os.path.exists(os.path.join(directory, name, _FILE)):
      found[int(match[1])] = os.path.join(directory, name, _FILE)
  return found


def save(path: str, policy: policy_lib.Policy, **info: Any) -> None:
  """Writes a policy whole or not at all; `info` must be JSON.

  The environment's parameters are kept for the training environments,
  whose names are enough to read them back.
  """
  form = policy.form
  header = {
      'format': _FORMAT, 'environment': form.environment,
      'num_actions': form.num_actions, 'num_outputs': form.num_outputs,
      'observation': _describe(form.observation_spec),
      'agent': form.agent and {'conv': list(form.agent.conv),
                               'dense': list(form.agent.dense)},
      'info': {**policy.info, **info}}
  tree = {'theta': policy.theta, 'action_mask': policy.action_mask}
  if form.environment in suite.ALL and policy.env_params is not None:
    tree['env_params'] = policy.env_params
  files.write_whole(path, tree_file.pack(tree_file.named_leaves(tree), header))


def save_in(directory: str, seed: int, policy: policy_lib.Policy) -> None:
  """Writes the policy that a job of meta-testing trained for a seed."""
  path = path_in(directory, seed)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  save(path, policy)


def load(path: str) -> policy_lib.Policy:
  """Reads the file that `save` wrote; imports no code that the file names.

  Raises:
    PolicyFileError: the file is missing, damaged, or something else.
  """
  try:
    with tree_file.open_tree(path) as saved:
      form, info = _parse(saved.read_header())
      with_params = any(name.startswith("['env_params']")
                        for name in saved.specs)
      tree = saved.read_tree(_like(form, with_params))
  except FileNotFoundError:
    raise PolicyFileError(f'there is no file {path}') from None
  except tree_file.TreeFileError as error:
    raise PolicyFileError(f'{path} is not a policy saved by this program '
                          f'({error})') from None
  if not all(np.all(np.isfinite(x))
             for x in jax.tree_util.tree_leaves(tree['theta'])):
    raise PolicyFileError(f'{path} holds numbers that are not finite')
  if not tree['action_mask'].any():
    raise PolicyFileError(f'{path} allows no action')
  return policy_lib.Policy(form, tree['theta'], tree['action_mask'],
                           tree.get('env_params'), info)


def load_all(directory: str) -> dict[int, policy_lib.Policy]:
  """Reads the policies of a job by seed, without agents that diverged."""
  policies = {}
  for seed, path in sorted(in_directory(directory).items()):
    with contextlib.suppress(PolicyFileError):
      policies[seed] = load(path)
  return policies


def _describe(spec: specs.Array) -> dict[str, Any]:
  """A specification as JSON; bounds are kept where all numbers share them."""
  if isinstance(spec, specs.DiscreteArray):
    return {'num_values': int(spec.num_values)}
  bounds = None
  if isinstance(spec, specs.BoundedArray):
    ends = [np.unique(spec.minimum), np.unique(spec.maximum)]
    if all(len(end) == 1 and np.isfinite(end[0]) for end in ends):
      bounds = [float(end[0]) for end in ends]
  return {'shape': list(spec.shape), 'dtype': np.dtype(spec.dtype).name,
          'bounds': bounds}


def _parse_spec(found: Mapping[str, Any]) -> specs.Array:
  if 'num_values' in found:
    return specs.DiscreteArray(fields.Integer(1, _MOST_FEATURES).check(
        'num_values', found['num_values']))
  shape = _wholes('shape', found['shape'], _MOST_AXES)
  if math.prod(shape) > _MOST_FEATURES:
    raise ValueError(f'observations have {math.prod(shape)} numbers; allowed: '
                     f'up to {_MOST_FEATURES}')
  dtype = np.dtype(str(found['dtype']))
  if dtype.kind not in 'buif':
    raise ValueError(f'observations have type {dtype}; allowed: numbers')
  if found['bounds'] is None:
    return specs.Array(shape, dtype)
  low, high = found['bounds']
  bound = fields.Real(low=-math.inf)
  return specs.BoundedArray(shape, dtype, bound.check('bounds', low),
                            bound.check('bounds', high))


def _wholes(name: str, values: Any, most: int) -> tuple[int, ...]:
  if not isinstance(values, list) or len(values) > most:
    raise ValueError(f'{name}: allowed: up to {most} whole numbers')
  return tuple(fields.Integer(1, _MOST_FEATURES).check(name, value)
               for value in values)


def _parse(header: Mapping[str, Any]
           ) -> tuple[policy_lib.Form, dict[str, Any]]:
  """The form of the policy, and what was saved beside it."""
  try:
    tree_file.check_format(header, _FORMAT)
    agent = header['agent']
    if agent is not None:
      agent = config_lib.AgentConfig(**{
          name: _wholes(name, agent[name], _MOST_LAYERS)
          for name in ('conv', 'dense')})
    num_actions = fields.Integer(1, 1 << 16).check(
        'num_actions', header['num_actions'])
    return policy_lib.Form(
        fields.Text().check('environment', header['environment']),
        _parse_spec(header['observation']), num_actions,
        fields.Integer(num_actions, 1 << 20).check(
            'num_outputs', header['num_outputs']),
        agent), dict(header['info'])
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise tree_file.TreeFileError(' '.join(str(error).split())) from None


def _like(form: policy_lib.Form, with_params: bool) -> dict[str, Any]:
  """Shapes of all arrays that a policy of this form has."""
  key = jax.random.PRNGKey(0)
  try:
    tree = {'theta': jax.eval_shape(policy_lib.make_network(form).init, key),
            'action_mask': np.ones(form.num_actions, bool)}
    if with_params:
      tree['env_params'] = jax.eval_shape(
          suite.load(form.environment).init_params, key)
  except (TypeError, ValueError) as error:
    raise tree_file.TreeFileError(' '.join(str(error).split())) from None
  if tree_file.size_of(tree) > _LARGEST:
    raise tree_file.TreeFileError(
        f'theta has {tree_file.size_of(tree)} bytes; allowed: up to {_LARGEST}')
  return tree
