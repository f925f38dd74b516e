"""The bandit p(alpha|E) over the agents' hyperparameters, Eqs. (5) and (6).

Eq. (5) is the objective in which each environment E has its best alpha. The
maximum over alpha is not computed: lifetimes draw alpha from Eq. (6), which
prefers pairs with high final returns.
"""

from typing import NamedTuple

import numpy as np

from lpg_distributed import config as config_lib

LARGEST_RETURN = 1e100  # Sums and exponentials of larger returns may overflow.


class BanditState(NamedTuple):
  """Counts and recent final returns of one environment's arms.

  An arm is a pair alpha of learning rate and KL cost.
  """
  counts: np.ndarray  # [arms] int64, N: number of reported lifetimes
  window: np.ndarray  # [arms, W] float64, ring buffer of the last W returns


def init(num_arms: int, config: config_lib.BanditConfig) -> BanditState:
  """Returns the state before the first report."""
  return BanditState(np.zeros(num_arms, np.int64),
                     np.zeros((num_arms, config.window)))


def report(state: BanditState, arm: int, final_return: float) -> BanditState:
  """Adds one lifetime's final return.

  Raises:
    ValueError: the arm does not exist, or the return is not finite or larger in
      magnitude than LARGEST_RETURN.
  """
  num_arms, size = state.window.shape
  if (isinstance(arm, bool) or not isinstance(arm, (int, np.integer))
      or not 0 <= arm < num_arms):
    raise ValueError(f'arm is {arm!r}; allowed: 0 to {num_arms - 1}')
  if not np.abs(final_return) <= LARGEST_RETURN:  # NaN fails it too.
    raise ValueError(f'final return is {final_return}; allowed: numbers up to '
                     f'{LARGEST_RETURN:g}')
  counts, window = state.counts.copy(), state.window.copy()
  window[arm, counts[arm] % size] = final_return
  counts[arm] += 1
  return BanditState(counts, window)


def check(state: BanditState) -> None:
  """Raises ValueError if no sequence of reports can have led to `state`."""
  if (state.counts < 0).any() or not (
      np.abs(state.window) <= LARGEST_RETURN).all():
    raise ValueError('a bandit\'s counts or returns are out of range; '
                     'allowed: counts from 0 on, returns up to '
                     f'{LARGEST_RETURN:g}')


def mean_returns(state: BanditState) -> np.ndarray:
  """R(alpha, E), [arms]: mean over the window; 0 for an untried arm."""
  size = state.window.shape[1]
  return state.window.sum(axis=1) / np.clip(state.counts, 1, size)


def log_probabilities(state: BanditState,
                      config: config_lib.BanditConfig) -> np.ndarray:
  """log p(alpha|E) of Eq. (6), [arms].

  The bonus of an untried arm is infinite, so untried arms share the whole
  probability equally.
  """
  untried = state.counts == 0
  if untried.any():
    with np.errstate(divide='ignore'):
      return np.log(untried / untried.sum())
  bonus = config.exploration_bonus / np.sqrt(state.counts)
  logits = (mean_returns(state) + bonus) / config.temperature
  logits = logits - logits.max()
  return logits - np.log(np.exp(logits).sum())
