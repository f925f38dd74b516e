"""Environments have the settings of the tables of Appendix A."""

import json

from dm_env import specs
import numpy as np
import pytest

from lpg_distributed.envs import optimal_returns
from lpg_distributed.envs import suite
from tests.envs import env_testing

NUM_STATES = {
    'tabular_dense': 1936, 'tabular_sparse': 676, 'tabular_long_horizon': 1936,
    'tabular_longer_horizon': 8064, 'tabular_long_dense': 1936,
    'chain_short': 118, 'chain_short_noisy': 118, 'chain_long': 198,
    'chain_long_noisy': 198}
SHAPES = {
    'random_dense': (11, 11, 4), 'random_long_horizon': (11, 11, 3),
    'random_small': (5, 7, 3), 'random_small_sparse': (5, 7, 3),
    'random_very_dense': (11, 11, 2), 'chain_state_distraction': (22,)}


def test_the_suite_has_the_fifteen_environments_of_the_paper():
  assert suite.ENVIRONMENTS == env_testing.GRIDS + env_testing.CHAINS
  assert len(suite.ENVIRONMENTS) == 15


def test_other_kinds_are_not_in_the_paper():
  assert not set(suite.BEYOND_THE_PAPER) & set(suite.ENVIRONMENTS)
  assert list(suite.ALL) == [*suite.ENVIRONMENTS, *suite.BEYOND_THE_PAPER]


@pytest.mark.parametrize('name', env_testing.GRIDS)
def test_grids_have_the_settings_of_the_paper(name):
  settings = suite.load(name).settings
  height, width, kinds, max_steps = env_testing.GRID_TABLES[name]
  assert (settings.height, settings.width) == (height, width)
  assert [(kind.count, kind.reward, kind.termination, kind.respawn)
          for kind in settings.objects] == kinds
  assert settings.max_episode_steps == max_steps
  assert suite.load(name).max_episode_steps == max_steps
  assert settings.tabular == name.startswith('tabular')


@pytest.mark.parametrize('name', env_testing.CHAINS)
def test_chains_have_the_settings_of_the_paper(name):
  settings = suite.load(name).settings
  shortest, longest, noisy = env_testing.CHAIN_TABLES[name]
  assert (settings.min_length, settings.max_length) == (shortest, longest)
  assert settings.noisy_rewards == noisy
  assert settings.distractor == (name == 'chain_state_distraction')
  assert suite.load(name).max_episode_steps == longest


@pytest.mark.parametrize('name', env_testing.GRIDS)
def test_walls_are_those_of_the_paper(name):
  environment = suite.load(name)
  assert environment.open_cells().tolist() == env_testing.free_cells(name)
  num_walls = {'tabular_longer_horizon': 7, 'tabular_long_dense': 17,
               'random_small': 2}.get(name, 0)
  assert len(environment.open_cells()) == environment.num_cells - num_walls


@pytest.mark.parametrize('name', suite.ENVIRONMENTS)
def test_specs_have_the_sizes_of_the_paper(name):
  environment = suite.load(name)
  assert environment.name == name
  spec = environment.observation_spec()
  if name in NUM_STATES:
    assert isinstance(spec, specs.DiscreteArray)
    assert spec.num_values == NUM_STATES[name]
  else:
    assert spec.shape == SHAPES[name] and spec.dtype == np.uint8
    assert spec.minimum == 0 and spec.maximum == 1
  assert environment.action_spec().num_values == (
      2 if name.startswith('chain') else 18)


def test_load_refuses_unknown_names_and_lists_the_allowed():
  with pytest.raises(ValueError) as error:
    suite.load('tabular_dens')
  message = str(error.value)
  assert '\n' not in message and 'did you mean tabular_dense?' in message
  assert all(name in message for name in suite.ALL)
  with pytest.raises(ValueError, match='allowed: tabular_dense, '):
    suite.load('')


def test_loading_twice_gives_equal_environments():
  """Compiled functions are cached by environment."""
  assert suite.load('random_small') == suite.load('random_small')
  assert hash(suite.load('chain_long')) == hash(suite.load('chain_long'))
  assert suite.load('chain_short') != suite.load('chain_short_noisy')


def test_seed_numbers_of_the_fifteen_never_change():
  """Stored results were computed with the place in the list of Table 3."""
  assert [suite.seed_number(name) for name in suite.ENVIRONMENTS] == [
      *range(15)]


def test_a_new_name_has_its_own_seed_number():
  assert suite.seed_number('module/my_grid:Maze') == 48441351
  assert suite.seed_number('a') != suite.seed_number('b')


def test_every_environment_has_a_random_return_and_most_an_optimum():
  entries = optimal_returns.load()
  assert tuple(entries) == tuple(suite.ALL)
  unknown = {'random_dense', 'random_long_horizon', 'random_small'}
  for name, optimum in optimal_returns.optima().items():
    assert (optimum is None) == (name in unknown)
    assert np.isfinite(entries[name]['random'])
    assert optimum is None or optimum > entries[name]['random']


def test_saved_returns_are_loaded(tmp_path, monkeypatch):
  monkeypatch.setattr(optimal_returns, '_PATH', str(tmp_path / 'returns.json'))
  optimal_returns.save({'a': {'optimal': None, 'random': 0.5}})
  try:
    assert optimal_returns.optima() == {'a': None}
    assert json.loads((tmp_path / 'returns.json').read_text()) == {
        'a': {'optimal': None, 'random': 0.5}}
  finally:
    optimal_returns.load.cache_clear()
