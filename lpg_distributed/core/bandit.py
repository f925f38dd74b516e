"""The bandit p(alpha|E) that balances agents' hyperparameters, Eq. (6)."""

from typing import NamedTuple

import numpy as np

from lpg_distributed import config as config_lib

LARGEST_RETURN = 1e100  # Sums and exponents of more would not be finite.


class BanditState(NamedTuple):
  """What is known of one environment's arms."""
  counts: np.ndarray  # [arms] int64, N: lifetimes simulated
  window: np.ndarray  # [arms, W] float64, a ring of the last final returns


def init(num_arms: int, config: config_lib.BanditConfig) -> BanditState:
  return BanditState(np.zeros(num_arms, np.int64),
                     np.zeros((num_arms, config.window)))


def report(state: BanditState, arm: int, final_return: float) -> BanditState:
  """Adds one lifetime's final return.

  Raises:
    ValueError: an arm that does not exist, or a return that is not finite or
      above LARGEST_RETURN.
  """
  num_arms, size = state.window.shape
  if (isinstance(arm, bool) or not isinstance(arm, (int, np.integer))
      or not 0 <= arm < num_arms):
    raise ValueError(f'arm is {arm!r}; allowed: 0 to {num_arms - 1}')
  if not np.abs(final_return) <= LARGEST_RETURN:  # Nor if it is not a number.
    raise ValueError(f'final return is {final_return}; allowed: numbers up to '
                     f'{LARGEST_RETURN:g}')
  counts, window = state.counts.copy(), state.window.copy()
  window[arm, counts[arm] % size] = final_return
  counts[arm] += 1
  return BanditState(counts, window)


def check(state: BanditState) -> None:
  """Raises ValueError for numbers that no `report` can have left."""
  if (state.counts < 0).any() or not (
      np.abs(state.window) <= LARGEST_RETURN).all():
    raise ValueError('a bandit\'s counts or returns are not what can be; '
                     'allowed: counts from 0 on, returns up to '
                     f'{LARGEST_RETURN:g}')


def mean_returns(state: BanditState) -> np.ndarray:
  """R(alpha, E), [arms]; 0 where nothing is known."""
  size = state.window.shape[1]
  return state.window.sum(axis=1) / np.clip(state.counts, 1, size)


def log_probabilities(state: BanditState,
                      config: config_lib.BanditConfig) -> np.ndarray:
  """log p(alpha|E) of Eq. (6), [arms].

  The bonus of an arm that was never tried is infinite: while there are such
  arms, they share the whole probability.
  """
  untried = state.counts == 0
  if untried.any():
    with np.errstate(divide='ignore'):
      return np.log(untried / untried.sum())
  bonus = config.exploration_bonus / np.sqrt(state.counts)
  logits = (mean_returns(state) + bonus) / config.temperature
  logits = logits - logits.max()
  return logits - np.log(np.exp(logits).sum())
