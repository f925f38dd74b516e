"""Exact models in NumPy of kinds beyond the paper with few states.

They are built from the parameters of lifetimes independently of the
environments' code, so that each implementation verifies the other.
"""

from typing import NamedTuple

import jax
import numpy as np

from lpg_distributed.envs import random_mdp
from lpg_distributed.envs import survival


class Mdps(NamedTuple):
  """Markov decision processes of L lifetimes."""
  # Chances of the next state. If they sum to less than 1, the rest is the
  # chance that the episode ends.
  transition: np.ndarray  # [L, S, A, S]
  reward: np.ndarray  # [L, S, A]
  allowed: np.ndarray  # [L, A] bool, actions that exist
  start: np.ndarray  # [L, S], chances of the first state
  limit: np.ndarray  # [L], number of steps after which an episode ends


def of_survival_chain(params: survival.WalkParams, num_cells: int) -> Mdps:
  """Builds the models of lifetimes of a `survival.SurvivalChain`.

  Args:
    params: parameters of lifetimes, leaves [L].
    num_cells: number of states, at least the largest length.
  """
  length, limit, slip, reward, directions = map(np.asarray, params)
  cells = np.arange(num_cells)
  exists = cells < length[:, None]  # [L, S]
  right = directions[:, None] >> cells.astype(np.uint32) & 1  # [L, S]
  transition = np.zeros((len(length), num_cells, 2, num_cells))
  for action in range(2):
    goes_right = np.where(right == action, 1. - slip[:, None], slip[:, None])
    for cell in cells:
      inner = exists[:, cell]
      if cell + 1 < num_cells:
        transition[:, cell, action, cell + 1] = (
            goes_right[:, cell] * inner * exists[:, cell + 1])
      if cell:
        transition[:, cell, action, cell - 1] = (
            (1. - goes_right[:, cell]) * inner)
  return Mdps(transition,
              np.broadcast_to(reward[:, None, None], transition.shape[:3]),
              np.ones((len(length), 2), bool),
              exists / length[:, None], limit)


def of_random_mdp(params: random_mdp.MdpParams) -> Mdps:
  """Builds the models of lifetimes of a `random_mdp.RandomMdp`.

  Args:
    params: parameters of lifetimes, leaves [L, ...].
  """
  params = jax.tree_util.tree_map(np.asarray, params)
  _, num_states, num_actions = params.reward.shape
  transition = np.zeros(params.reward.shape + (num_states,))
  states = np.arange(num_states)
  for i, chance in enumerate((params.first_chance, 1. - params.first_chance)):
    goes_there = params.successors[..., i, None] == states
    transition += np.where(params.ends, 0., chance)[..., None] * goes_there
  return Mdps(transition, params.reward,
              np.arange(num_actions) < params.num_actions[:, None],
              (states < params.num_states[:, None])
              / params.num_states[:, None], params.limit)


def start_values(mdps: Mdps, optimal: bool) -> np.ndarray:
  """Returns the mean undiscounted return of whole episodes, [L].

  Args:
    mdps: the models.
    optimal: True for the policy that is optimal for the number of steps left,
      False for the uniformly random one.
  """
  values = np.zeros(mdps.start.shape)
  result = np.zeros(len(values))
  for steps in range(1, int(mdps.limit.max()) + 1):
    action_values = mdps.reward + np.einsum(
        'lsat,lt->lsa', mdps.transition, values)
    allowed = np.broadcast_to(mdps.allowed[:, None], action_values.shape)
    values = (action_values.max(axis=2, where=allowed, initial=-np.inf)
              if optimal else action_values.mean(axis=2, where=allowed))
    result = np.where(mdps.limit == steps, (mdps.start * values).sum(axis=1),
                      result)
  return result
