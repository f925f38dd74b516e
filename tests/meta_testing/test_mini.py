"""A small mini benchmark: tuning, training, table, resuming."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_vector
from lpg_distributed.envs import registry
from lpg_distributed.envs import suite
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import mini
from lpg_distributed.store import eta_file

CHAIN = 'gymnax/Catch-bsuite'  # By its name only; a chain stands in for it.


@pytest.fixture
def config(tmp_path):
  rule = config_lib.RuleConfig(num_predictions=3, lstm_size=2)
  path = str(tmp_path / 'eta.npz')
  eta_file.save(path, rule_vector.init(rule, jax.random.PRNGKey(0)), rule)
  return mini.MiniConfig(path, environments=(CHAIN,), scale=0.06)


def test_late_returns_by_hand():
  sums = np.array([[9., 5., 0.], [9., 3., 0.], [4., 0., 0.], [2., 0., 0.]])
  counts = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [2, 0, 0]])
  late = mini._late_returns(sums, counts)
  assert late[:2].tolist() == [2., 3.] and np.isnan(late[2])


def test_an_item_is_tuned_and_trained_once(config, tmp_path, monkeypatch):
  monkeypatch.setattr(mini, 'LEARNING_RATES', (1e-6, 0.02))
  monkeypatch.setattr(
      loading, 'load_environment', lambda job: registry.LoadedEnvironment(
          'gymnax', suite.load('chain_short'), None))
  root = str(tmp_path / 'root')
  mini.check(config, root)
  item = mini.Item(config, CHAIN, 'a2c', root)
  assert item.result() is None and mini.table(config, root) == {}
  mini.run_item(item)
  tuning = item.tuning()
  assert tuning['learning_rates'] == [1e-6, 0.02] and tuning['at_edge']
  assert np.shape(tuning['returns']) == (2, 3)
  # Agents that do not learn stay near 0; two of three others learned by 0.79.
  means = np.mean(tuning['returns'], axis=1)
  assert tuning['best'] == 0.02 and means[1] > means[0] + 0.2
  assert tuning['seeds'] == [1000, 1001, 1002]
  assert item.result().job.settings.learning_rate == 0.02
  rows = mini.table(config, root)
  cell = rows[CHAIN]['a2c']
  assert len(cell['returns']) == 3
  np.testing.assert_allclose(cell['mean'], np.mean(cell['returns']))
  lines = mini.lines_of(rows)
  assert lines[2].startswith('| `Catch-bsuite` | 6,000 | - | ')
  assert '(0.02*)' in lines[2] and lines[-1].startswith('* the largest')
  monkeypatch.setattr(mini, '_tune', None)  # Neither runs again.
  mini.run_item(item)


@pytest.mark.parametrize('kind', ['lpg', 'lpg_v'])
def test_the_rule_is_of_the_kind_of_its_eta(kind, tmp_path):
  rule = config_lib.RuleConfig(num_predictions=3, lstm_size=2, kind=kind)
  path = str(tmp_path / 'eta.npz')
  eta_file.save(path, rule_vector.init(rule, jax.random.PRNGKey(0)), rule)
  config = mini.MiniConfig(path, environments=(CHAIN,))
  mini.check(config, str(tmp_path / 'root'))
  rules = {item.rule: item.job(0.01, (0,)) for item in mini.items(config, '')}
  assert rules['lpg'].rule == rules['random'].rule_config.kind == kind
  assert rules['a2c'].rule == 'a2c' and 'ppo' not in rules


def test_a_directory_holds_one_table(config, tmp_path):
  root = str(tmp_path / 'root')
  mini.check(config, root)
  mini.check(mini.MiniConfig(config.eta_file, scale=0.06), root)  # All eight.
  with pytest.raises(jobs.JobError, match='has a table with other settings'):
    mini.check(mini.MiniConfig(config.eta_file, scale=0.5), root)
  with open(tmp_path / 'root' / mini.CONFIG_FILE, encoding='utf-8') as f:
    assert json.load(f)['seeds'] == [0, 1, 2]
  with pytest.raises(jobs.JobError, match='seeds are .0, 1.; allowed: 3'):
    mini.check(mini.MiniConfig(config.eta_file, seeds=(0, 1)), root)
  with pytest.raises(jobs.JobError, match='allowed: some of gymnax/Freeway'):
    mini.check(mini.MiniConfig(config.eta_file, environments=('x',)), root)
  for rules in (('lpg', 'dqn'), ('ppo', 'ppo'), ()):
    with pytest.raises(jobs.JobError, match='allowed: different ones of lpg, '
                       'a2c, random, ppo'):
      mini.check(dataclasses.replace(config, rules=rules), root)


def test_ppo_is_a_fourth_rule_if_asked_for(config, tmp_path):
  """It can be added to a table that was made without it."""
  root = str(tmp_path / 'root')
  mini.check(config, root)
  more = dataclasses.replace(config, rules=mini.ALL_RULES)
  mini.check(more, root)
  rules = {item.rule: item.job(0.01, (0,)) for item in mini.items(more, root)}
  assert rules['ppo'].rule == 'ppo' and rules['ppo'].eta is None
  cell = {'mean': 1., 'standard_error': 0., 'returns': [1., 1., 1.],
          'learning_rate': 0.01, 'at_edge': False, 'env_steps': 100}
  header = lambda rows: mini.lines_of({CHAIN: rows})[0]
  assert header({'a2c': cell}) == '| environment | steps | lpg | a2c | random |'
  assert header({'ppo': cell}).endswith('| lpg | a2c | random | ppo |')


def test_the_benchmark_has_eight_environments_and_three_rules():
  assert len(mini.ENV_STEPS) == 8
  assert {e.split('/')[1] for e in mini.ENV_STEPS} == {
      'Catch-bsuite', 'CartPole-v1', 'DeepSea-bsuite', 'UmbrellaChain-bsuite',
      'Asterix-MinAtar', 'Breakout-MinAtar', 'Freeway-MinAtar',
      'SpaceInvaders-MinAtar'}
  assert set(mini.RULES) == {'lpg', 'a2c', 'random'} and len(mini.SEEDS) >= 3
  assert not set(mini.SEEDS) & set(range(1000, 1003))


@pytest.mark.parametrize('text', [
    '[1]', 'null', '{', '{}', '{"best": "x", "at_edge": true}',
    '{"best": 0.1, "at_edge": 3}'])
def test_a_damaged_tuning_is_refused(text, config, tmp_path):
  item = mini.Item(config, CHAIN, 'a2c', str(tmp_path))
  assert item.tuning() is None
  os.makedirs(item.directory)
  with open(item.tuning_file, 'w', encoding='utf-8') as f:
    f.write(text)
  with pytest.raises(jobs.JobError, match='is damaged.*; remove it'):
    item.tuning()
