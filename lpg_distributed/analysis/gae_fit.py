"""How much of a rule's response is that of an advantage with a baseline.

With V in the place of phi, generalised advantage estimation (GAE) answers a
reward k steps later with (gamma lambda)^k, the value of the state itself with
-1, and that of the state k steps later with gamma (1 - lambda) (gamma
lambda)^(k - 1). A rule whose kernels have this form has found the temporal
difference; lambda = 1 is a return with a baseline.
"""

from typing import NamedTuple

import numpy as np

_LAMBDAS = np.linspace(0., 1., 101)


class Fit(NamedTuple):
  """The GAE that is nearest to two kernels, each up to a factor."""
  td_lambda: float
  reward: np.ndarray  # [K], of pi_hat by rewards
  phi: np.ndarray  # [K + 1], of pi_hat by phi
  reward_explained: float  # 1 - squared error / squares; 1: all of it
  phi_explained: float
  phi_factor: float  # above 0: phi grows with what is good, as values do


def kernels(td_lambda: float, gamma: float, num: int
            ) -> tuple[np.ndarray, np.ndarray]:
  """GAE's own by rewards, [num], and by values, [num + 1]."""
  decay = (gamma * td_lambda) ** np.arange(num)
  return decay, np.append(-1., gamma * (1. - td_lambda) * decay)


def _nearest(kernel: np.ndarray, form: np.ndarray) -> tuple[float, float]:
  """(factor of `form`, share of the squares that it explains)."""
  factor = kernel @ form / (form @ form)
  squares = max(kernel @ kernel, np.finfo(np.float64).tiny)
  return factor, 1. - np.sum((kernel - factor * form) ** 2) / squares


def fit(reward: np.ndarray, phi: np.ndarray, gamma: float) -> Fit:
  """The lambda, of hundredths, that explains most of both kernels.

  Args:
    reward: [K], derivative of pi_hat at t by the reward at t + k.
    phi: [K + 1], by phi(y) of the state at t + k.
    gamma: the discount.
  """
  fits = []
  for td_lambda in _LAMBDAS:
    by_reward, by_value = kernels(td_lambda, gamma, len(reward))
    reward_factor, reward_explained = _nearest(reward, by_reward)
    phi_factor, phi_explained = _nearest(phi, by_value)
    fits.append(Fit(float(td_lambda), reward_factor * by_reward,
                    phi_factor * by_value, float(reward_explained),
                    float(phi_explained), float(phi_factor)))
  return max(fits, key=lambda f: f.reward_explained + f.phi_explained)
