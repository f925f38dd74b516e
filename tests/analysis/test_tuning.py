"""The search for hyperparameters, with fake lifetimes."""

import dataclasses
import json
import math
import pathlib
import re

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import search_space
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_environments as training
from lpg_distributed.analysis import training_settings
from lpg_distributed.analysis import tuning
from lpg_distributed.core import baselines
from lpg_distributed.core import train_agents

KIND = 'chain_short'
SPACE = {'learning_rate': search_space.Range(1., 100., 1e-4, 1e4),
         'gamma': search_space.Range(0.9, 0.99, 0.5, 0.999, True)}
FIRST = {'learning_rate': 10., 'gamma': 0.95}
SETTINGS = training_settings.ComparisonSettings(trials=16, finalists=3,
                                      tuning_lifetimes=2, final_lifetimes=7)


def lifetimes_of(num, value, bonus=0.):
  """Lifetimes that end at `value`, and return `bonus` more before."""
  return train_agents.Lifetimes(
      final_return=np.full(num, value),
      episode_return=np.full((4, num), value + bonus),
      num_episodes=np.ones((4, num)), input_means=None, hyper=None, theta=None)


def near(rate):
  """Returns are better, the nearer the learning rate is to `rate`."""
  return lambda values, key, num: lifetimes_of(
      num, -abs(math.log(values['learning_rate'] / rate)))


def search(simulate, settings=SETTINGS, space=None, kind=KIND, log=None):
  return tuning.tune(kind, space or SPACE, FIRST, simulate, settings,
                     lambda text: None, log)


def test_ranges_by_hand():
  rate, gamma = SPACE.values()
  draws = np.array([rate.draw(np.random.default_rng(i)) for i in range(400)])
  assert draws.min() > 1. and draws.max() < 100.
  assert abs(np.mean(draws < 10.) - 0.5) < 0.1  # Uniform in the logarithm.
  draws = np.array([gamma.draw(np.random.default_rng(i))
                    for i in range(400)])
  assert draws.min() > 0.9 and draws.max() < 0.99
  assert abs(np.mean(draws < 1. - 0.1 ** 1.5) - 0.5) < 0.1
  # An eighth of two decades is at an end: up to 10 ** 0.25 = 1.78.
  assert [rate.edge(x) for x in (0.5, 1.7, 1.9, 55., 57., 200.)] == [
      -1, -1, 0, 0, 1, 1]
  # A quarter of two decades more.
  assert rate.widened(90.) == rate._replace(high=316.23)
  assert rate.widened(1.2) == rate._replace(low=0.31623)
  assert rate.widened(200.).high == pytest.approx(200. * 10 ** 0.5, rel=1e-4)
  assert rate.widened(10.) == rate
  # A quarter of one decade more, and no end where the limit is.
  assert gamma.widened(0.9895).high == pytest.approx(1. - 0.01 / 10 ** 0.25,
                                                        abs=1e-5)
  at_limit = gamma._replace(high=0.999)
  assert at_limit.edge(0.999) == 0 and at_limit.widened(0.999) == at_limit
  assert search_space.Range(0.05, 1., 1e-3, 1.).edge(1.) == 0
  around = rate.around(50., 0.25)
  assert around.low == pytest.approx(50. / 10 ** 0.5, rel=1e-4)
  assert around.high == 100.
  # Values outside of the limits count as the nearest limit.
  assert rate.place(0.) == math.log(1e-4)
  assert gamma.place(1.) == pytest.approx(-math.log(0.001))


def test_rounds_and_the_choice_by_hand():
  """The best trial had luck; another one is the best of the finalists."""
  seen, messages = [], []

  def simulate(values, key, num):
    seen.append((num, tuple(values.values()), tuple(np.asarray(key))))
    rank = [at[1] for at in seen if at[0] == 2].index(seen[-1][1])
    # Trials 3, 5 and 9 are the finalists; 5 and 9 tie, and 9 learns faster.
    value = ({3: 9., 5: 8., 9: 7.} if num == 2 else {3: 1., 5: 6.001, 9: 6.}
             ).get(rank, 0.)
    return lifetimes_of(num, value, bonus=rank == 9)

  found = tuning.tune(KIND, SPACE, FIRST, simulate, SETTINGS, messages.append)
  assert messages == [
      '8 trials, 2 lifetimes of each', '4 trials, 2 lifetimes of each',
      '4 trials, 2 lifetimes of each', '3 best, 7 lifetimes of each']
  assert found['names'] == list(SPACE)
  assert [row[0] for row in found['trials']] == 8 * [0] + 4 * [1] + 4 * [2] + (
      3 * [3])
  assert found['trials'][0][1:3] == list(FIRST.values())
  order = [at[1] for at in seen]
  assert order[16:] == [order[3], order[5], order[9]]
  assert tuple(found['best'].values()) == order[9]
  # The rounds around the best are within a quarter of the ranges.
  best = order[3]
  for trial in order[8:16]:
    assert abs(math.log10(trial[0] / best[0])) <= 0.5 + 1e-4
    assert abs(math.log10((1. - trial[1]) / (1. - best[1]))) <= 0.25 + 1e-3
  first, last = ({key for num, _, key in seen if num == n} for n in (2, 7))
  assert len(first) == len(last) == 1 and first != last
  test_keys = {tuple(np.asarray(key))
               for key in training._chunk_keys(KIND, SETTINGS)}
  assert not test_keys & (first | last)


def test_trials_depend_on_seed_and_environment_only():
  trials = lambda **kwargs: search(near(20.), **kwargs)['trials']
  assert trials() == trials()
  other = dataclasses.replace(SETTINGS, seed=1)
  for changed in (trials(settings=other), trials(kind='chain_long')):
    assert changed[0] == trials()[0]  # The default.
    assert all(row not in trials() for row in changed[1:16])


def test_ranges_are_widened_if_the_best_is_at_an_edge():
  """The best rate is above the range and above the wider one, or inside."""
  found = search(near(1e4))
  low, high = found['widened']['learning_rate']
  assert low == 1. and high > 100. * 10 ** 0.5
  assert max(row[1] for row in found['trials']) > 100.
  assert found['best']['learning_rate'] > 100.
  assert found['ranges'] == {'learning_rate': [1., 100.],
                             'gamma': [0.9, 0.99]}
  found = search(near(10.))
  assert 'learning_rate' not in found['widened']
  assert found['best']['learning_rate'] == 10.
  assert 'learning_rate' not in found['at_edge']
  # Without further rounds, a range stays and `at_edge` shows it.
  few = training_settings.ComparisonSettings(trials=3, finalists=1)
  found = tuning.tune(KIND, SPACE, {**FIRST, 'learning_rate': 99.}, near(1e4),
                      few, print)
  assert found['widened'] == {} and len(found['trials']) == 4
  assert found['at_edge'] == {'learning_rate': 1}


@pytest.mark.parametrize('num_lived', [1, 5, 9, 13, 16, 18])
def test_a_search_is_resumed_from_its_log(num_lived):
  """Killed after some trials, of which some are not finite."""
  kept, seen = [], []

  def simulate(values, key, num):
    if len(seen) == num_lived:
      raise KeyboardInterrupt
    seen.append(values)
    some = near(30.)(values, key, num)
    # Digits that results do not store.
    bad = np.nan if values['gamma'] > 0.98 else 1e-7 * num
    return some._replace(final_return=some.final_return + bad)

  log = lambda rows: tuning.Log(
      rows, lambda rows: kept.append(stored.plain(rows)))
  with pytest.raises(KeyboardInterrupt):
    search(simulate, log=log(()))
  assert len(kept) == num_lived
  num_lived, begun = 99, json.loads(json.dumps(kept[-1]))
  again = search(simulate, log=log(begun))
  assert len(seen) == 19  # No trial ran twice.
  seen.clear()
  assert stored.plain(again) == stored.plain(search(simulate))
  assert len(seen) == 19


def test_a_search_of_one_trial_is_the_default():
  found = search(None, training_settings.ComparisonSettings(trials=1))
  assert found['best'] == FIRST and found['trials'] == []
  assert [tuning.round_sizes(n) for n in (2, 3, 4, 5, 32)] == [
      (2, 0, 0), (3, 0, 0), (2, 1, 1), (3, 1, 1), (16, 8, 8)]


def test_ranges_and_defaults_by_rule_and_environment():
  agents = config_lib.AGENTS
  a2c = search_space.of_a2c('tabular_dense', agents['tabular_dense'])
  assert tuple(a2c) == baselines.A2CHyperparameters._fields
  assert (a2c['learning_rate'].low, a2c['learning_rate'].high) == (20., 640.)
  assert a2c['critic_rate'] == search_space.TABLE_CRITIC_RATE
  network = search_space.of_a2c('random_small', agents['random_small'])
  assert network['critic_rate'] == search_space.NETWORK_CRITIC_RATE
  names = lambda kind: list(search_space.of_rule(
      'random_small', agents['random_small'],
      config_lib.RuleConfig(kind=kind)))
  assert names('lpg') == names('lpg_vector') == ['learning_rate', 'kl_cost']
  assert names('lpg_v') == ['learning_rate', 'critic_rate', 'td_lambda']
  config = config_lib.Config()
  assert search_space.default_a2c('tabular_dense', config) == {
      'learning_rate': 80., 'entropy_cost': 0.02, 'critic_rate': 0.3,
      'td_lambda': 0.95, 'gamma': 0.995}
  assert search_space.default_a2c('random_small', config)[
      'critic_rate'] == 0.001
  assert search_space.default_rule('tabular_dense', config, 5) == {
      'learning_rate': 40., 'kl_cost': 1.}
  # Defaults are within the ranges, a user's kind has its own rates.
  for name, agent in agents.items():
    first = search_space.default_a2c(name, config)
    for what, found in search_space.of_a2c(name, agent).items():
      assert found.low <= first[what] <= found.high
  own = config_lib.AgentConfig(learning_rates=(3., 7.))
  assert search_space.of_a2c('module/a:B', own)['learning_rate'][:2] == (
      3., 56.)


def test_the_guide_has_the_ranges():
  text = (pathlib.Path(__file__).resolve().parents[2] / 'docs' /
          'science.md').read_text(encoding='utf-8')
  table = text[text.index('| searched for |'):].split('\n\n')[0].splitlines()
  cells = dict(zip(
      ('learning_rate', 'kl_cost', 'entropy_cost', 'critic_rate', 'td_lambda',
       'gamma'), (line.split('|')[3:5] for line in table[2:])))
  for kind, agent in config_lib.AGENTS.items():
    space = {**search_space.of_a2c(kind, agent),
             'kl_cost': search_space.KL_COST}
    assert cells.keys() == space.keys()
    for name, limits in space.items():
      cell = cells[name][0 if agent.is_table else 1]
      found = re.findall(r'([\d.]+) to ([\d.]+)', cell)
      low, high = map(float, found[-1 if f'`{kind}`' in cell else 0])
      assert (low, high) == pytest.approx((limits.low, limits.high)), name
