"""Comparisons know the kinds that are not in the paper."""

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import presets
from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import search_space
from lpg_distributed.analysis import training_environments
from lpg_distributed.analysis import training_settings
from lpg_distributed.core import train_agents
from lpg_distributed.envs import suite

SETTINGS = training_settings.ComparisonSettings(
    num_lifetimes=3, chunk=2, updates=7)
EACH = pytest.mark.parametrize('name', suite.BEYOND_THE_PAPER)


@EACH
def test_rules_that_were_not_trained_on_a_kind_get_its_row(name):
  base = presets.demo()
  config = training_environments.sized(base, name, base, SETTINGS)
  row = config_lib.AGENTS_BEYOND_THE_PAPER[name]
  assert config.environments == (name,)
  assert config.agents[name].arms == row.arms
  assert train_agents.num_updates(config, name) == 7
  rates = search_space.of_a2c(name, config.agents[name])['learning_rate']
  assert rates.low == min(row.learning_rates)
  assert search_space.default_a2c(name, config)['learning_rate'] == max(
      row.learning_rates)


@pytest.mark.parametrize('name', ['survival_chain', 'random_grids'])
def test_lifetimes_of_a_comparison_differ(name):
  params = training_environments.layouts(name, SETTINGS)
  limits = np.asarray(params.limit)
  assert limits.shape == (3,) and len(set(limits)) == 3
  again = training_environments.layouts(name, SETTINGS)
  jax.tree_util.tree_map(np.testing.assert_array_equal, params, again)


def test_all_means_the_fifteen_of_the_paper():
  named = lambda *names: figure3._environments(names, presets.demo())  # pylint: disable=protected-access
  assert named('all') == suite.ENVIRONMENTS
  assert named(*suite.BEYOND_THE_PAPER) == tuple(suite.BEYOND_THE_PAPER)
  with pytest.raises(ValueError, match='did you mean balance?') as info:
    named('balanc')
  assert '\n' not in str(info.value)
