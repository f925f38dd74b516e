"""Fits generalised advantage estimation (GAE) to a rule's derivatives.

The derivatives of GAE's advantage at a step are:

- (gamma lambda)^k with respect to the reward k steps later
- -1 with respect to the value of the state itself
- gamma (1 - lambda) (gamma lambda)^(k - 1) with respect to the value of the
  state k steps later

`sensitivity` measures the derivatives (kernels) of a rule. A rule with kernels
of this form, with phi in place of the value, has learned to use temporal
differences. With lambda = 1 GAE is the return minus a baseline.
"""

from typing import NamedTuple

import numpy as np

_LAMBDAS = np.linspace(0., 1., 101)


class Fit(NamedTuple):
  """The GAE that fits two kernels best, each up to a factor."""
  td_lambda: float
  reward: np.ndarray  # [K], fitted derivative of pi_hat by rewards
  phi: np.ndarray  # [K + 1], fitted derivative of pi_hat by phi
  reward_explained: float  # 1 - squared error / sum of squares
  phi_explained: float  # the same for phi
  phi_factor: float  # above 0: phi increases with the value


def kernels(td_lambda: float, gamma: float, num: int
            ) -> tuple[np.ndarray, np.ndarray]:
  """Returns GAE's kernels by rewards, [num], and by values, [num + 1]."""
  decay = (gamma * td_lambda) ** np.arange(num)
  return decay, np.append(-1., gamma * (1. - td_lambda) * decay)


def _nearest(kernel: np.ndarray, form: np.ndarray) -> tuple[float, float]:
  """Returns the best factor of `form`, and the share of squares explained."""
  factor = kernel @ form / (form @ form)
  squares = max(kernel @ kernel, np.finfo(np.float64).tiny)
  return factor, 1. - np.sum((kernel - factor * form) ** 2) / squares


def fit(reward: np.ndarray, phi: np.ndarray, gamma: float) -> Fit:
  """Finds the lambda, in steps of 0.01, that explains most of both kernels.

  Args:
    reward: [K], derivative of pi_hat at t by the reward at t + k.
    phi: [K + 1], derivative of pi_hat at t by phi(y) of the state at t + k.
    gamma: the discount factor.
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
