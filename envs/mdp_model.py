"""Exact models in NumPy of kinds beyond the paper with few states.

They are built from the parameters of lifetimes independently of the
environments' code, so that each implementation verifies the other.
"""

from typing import NamedTuple

import numpy as np

from lpg_distributed.envs import survival


class Mdps(NamedTuple):
  """Markov decision processes of L lifetimes."""
  # Chances of the next state. If they sum to less than 1, the rest is the
  # chance that the episode ends.
  transition: np.ndarray  # [L, S, A, S]
  reward: np.ndarray  # [L, S, A], mean reward of a step
  start: np.ndarray  # [L, S], chances of the first state
  limit: np.ndarray  # [L], number of steps after which an episode ends


def of_survival_chain(params: survival.ChainParams, num_cells: int) -> Mdps:
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
              exists / length[:, None], limit)


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
    values = (action_values.max(axis=2) if optimal
              else action_values.mean(axis=2))
    result = np.where(mdps.limit == steps, (mdps.start * values).sum(axis=1),
                      result)
  return result
