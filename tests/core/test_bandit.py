"""The bandit: probabilities of Eq. (6) by hand, and reports of returns."""

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import bandit

CONFIG = config_lib.BanditConfig(temperature=0.1, exploration_bonus=0.2,
                                 window=3)


def report_all(returns_by_arm):
  state = bandit.init(len(returns_by_arm), CONFIG)
  for arm, returns in enumerate(returns_by_arm):
    for value in returns:
      state = bandit.report(state, arm, value)
  return state


def test_probabilities_by_hand():
  state = report_all([[1., 2.], [0.5], [1., 1., 1., 1.]])
  means, counts = np.array([1.5, 0.5, 1.]), np.array([2, 1, 4])
  weights = np.exp((means + 0.2 / np.sqrt(counts)) / 0.1)
  np.testing.assert_allclose(np.exp(bandit.log_probabilities(state, CONFIG)),
                             weights / weights.sum(), rtol=1e-12)


def test_mean_covers_the_window_and_count_covers_all_returns():
  state = report_all([[100., 1., 2., 3.], [0.]])
  np.testing.assert_allclose(bandit.mean_returns(state), [2., 0.])
  np.testing.assert_array_equal(state.counts, [4, 1])
  weights = np.exp((np.array([2., 0.]) + 0.2 / np.sqrt([4, 1])) / 0.1)
  np.testing.assert_allclose(np.exp(bandit.log_probabilities(state, CONFIG)),
                             weights / weights.sum(), rtol=1e-12)


def test_untried_arms_come_first():
  state = report_all([[50.], [], []])
  np.testing.assert_allclose(np.exp(bandit.log_probabilities(state, CONFIG)),
                             [0., 0.5, 0.5])


def test_large_returns_do_not_overflow():
  for large in (1e6, bandit.LARGEST_RETURN):
    state = report_all([[large] * 3, [-large] * 3, [large] * 3])
    probabilities = np.exp(bandit.log_probabilities(state, CONFIG))
    np.testing.assert_allclose(probabilities, [0.5, 0., 0.5])


def test_report_does_not_change_the_old_state():
  state = bandit.init(2, CONFIG)
  bandit.report(state, 1, 3.)
  assert not state.counts.any() and not state.window.any()


@pytest.mark.parametrize('arm, value', [
    (-1, 0.), (2, 0.), (True, 0.), (0, np.nan), (0, np.inf), (0, -1.1e100)])
def test_bad_reports_are_refused(arm, value):
  with pytest.raises(ValueError, match='allowed'):
    bandit.report(bandit.init(2, CONFIG), arm, value)
