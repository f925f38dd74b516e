"""Results by number of actions, by hand and against simulated lifetimes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import action_sets
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_environments as training
from lpg_distributed.analysis import training_settings
from lpg_distributed.core import baselines
from lpg_distributed.core import train_agents
from tests.launch import command_testing

SETTINGS = training_settings.ComparisonSettings(num_lifetimes=10, chunk=6)
ABOUT = {'rules': {'LPG': {}}, 'settings': dataclasses.asdict(SETTINGS)}


def test_layouts_are_those_of_lifetimes_with_any_learner():
  """A2C with other sizes gets the same layouts as those drawn again."""
  name = 'random_small_sparse'
  config = config_lib.Config()
  config = dataclasses.replace(config, meta=dataclasses.replace(
      config.meta, num_envs=2, trajectory_steps=3))
  simulate = jax.jit(lambda key: train_agents.simulate(
      config, name, lambda kind: baselines.a2c(config, kind), key, 6,
      jnp.zeros(len(config.agents[name].arms)), 1)[1].task.env_params)
  simulated = [simulate(key) for key in training._chunk_keys(name, SETTINGS)]
  layouts = training.layouts(name, SETTINGS)
  for field in ('collects_by_action', 'object_cells'):
    np.testing.assert_array_equal(
        getattr(layouts, field),
        np.concatenate([getattr(some, field) for some in simulated])[:10])
  found = action_sets.num_actions(name, SETTINGS)
  np.testing.assert_array_equal(found == 18, layouts.collects_by_action)
  assert set(found) == {9, 18}


def test_table_and_verdicts_by_hand(monkeypatch):
  monkeypatch.setattr(action_sets, 'num_actions', lambda name, settings: (
      np.array([9, 18, 9, 18, 9, 18])))
  row = lambda *values: {'final': list(values)}
  data = {'tabular_dense': {'rules': {
      'LPG': row(5., 1., 5., 1., 5., 1.), 'A2C': row(3., 1., 3., 1., 3., 1.)}},
          'random_small': {'rules': {
      'LPG': row(2., 4., 2., 4., 2., 4.), 'A2C': row(2., 5., 2., 5., 2., 5.)}},
          'chain_short': {'rules': {'LPG': row(*6 * [1.])}}}
  found = action_sets.by_num_actions(ABOUT, data)
  assert list(found) == ['tabular_dense', 'random_small']  # No chain.
  assert found['tabular_dense'][9]['LPG']['mean'] == 5.
  assert action_sets.lines(found) == [
      '| environment | actions | lifetimes | LPG | A2C |',
      '|---|---|---|---|---|',
      '| `tabular_dense` | 9 | 3 | 5 ± 0 | 3 ± 0 |',
      '| `tabular_dense` | 18 | 3 | 1 ± 0 | 1 ± 0 |',
      '| `random_small` | 9 | 3 | 2 ± 0 | 2 ± 0 |',
      '| `random_small` | 18 | 3 | 4 ± 0 | 5 ± 0 |',
      '',
      'LPG against A2C, 9 actions, of 2 kinds: above on 1, below on 0, '
      'intervals overlap on 1.',
      'LPG against A2C, 18 actions, of 2 kinds: above on 0, below on 1, '
      'intervals overlap on 1.']
  only = action_sets.by_num_actions(ABOUT, data, ['A2C'])
  assert list(only['random_small'][18]) == ['A2C']
  with pytest.raises(stored.ResultsError, match="allowed: 'LPG', 'A2C'$"):
    action_sets.by_num_actions(ABOUT, data, ['LPG-V'])
  del data['tabular_dense'], data['random_small']
  with pytest.raises(stored.ResultsError, match='no results of grid worlds'):
    action_sets.by_num_actions(ABOUT, data)


def test_the_command_prints_the_table(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(action_sets, 'num_actions', lambda name, settings: (
      np.array([9, 18])))
  path = str(tmp_path / 'figure3.json')
  assert command_testing.call('action_sets', [f'--results={path}']) == 2
  error = capsys.readouterr().err
  assert path in error and error.count('\n') == 1
  stored.save(path, 'figure3', ABOUT, {'tabular_dense': {'rules': {
      'LPG': {'final': [1., 2.]}, 'LPG, phi held': {'final': [3., 4.]}}}})
  assert command_testing.call('action_sets',
      [f'--results={path}', '--label=LPG, phi held']) == 0
  assert capsys.readouterr().out.splitlines()[2:4] == [
      '| `tabular_dense` | 9 | 1 | 3 |', '| `tabular_dense` | 18 | 1 | 4 |']
