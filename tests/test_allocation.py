"""Lifetimes by cost: fewer of expensive kinds, and the same expectation."""

import dataclasses
import fractions
import itertools
import math

import numpy as np
import pytest

from lpg_distributed import allocation
from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed import types
from lpg_distributed.nodes import gradient_sum
from lpg_distributed.nodes import traced_programs

KINDS = len(config_lib.AGENTS)
_OWN = 'module/my_grid:Queues'
_OWN_ROW = ('agents.module/my_grid:Queues.conv=16',
            'agents.module/my_grid:Queues.optimiser=adam')


def make_config(*overrides, by='cost', preset='paper'):
  return config_io.apply_overrides(
      presets.load(preset), [f'lifetimes_by={by}', *overrides])


def mean_gradient(config, gradient_of, weighted=True):
  """The meta-step's gradient, [1], if `gradient_of(kind, slot)` is given."""
  specs = {spec.shard_id: spec if weighted else
           dataclasses.replace(spec, weight=1.) for spec in config.shards()}
  gradients = [types.MetaGradient(
      0, spec.shard_id, np.float32([sum(
          gradient_of(spec.environment, spec.first_slot + i)
          for i in range(spec.num_lifetimes))]), spec.num_lifetimes, {})
               for spec in specs.values()]
  total, divisor = gradient_sum.weighted(gradients, specs, config)
  assert divisor == config.meta.num_lifetimes
  return float(total[0]) / divisor


def test_costs_rise_with_the_network():
  agents = config_lib.AGENTS
  costs = [allocation.relative_cost(agents[name]) for name in (
      'chain_short', 'random_small', 'random_dense', 'random_very_dense')]
  assert costs[0] == 1. and costs == sorted(set(costs))
  unusual = config_lib.AgentConfig(conv=(64, 8), dense=(8,))
  assert allocation.relative_cost(unusual) > costs[-1]


def test_an_agent_costs_more_beside_a_small_rule():
  config = make_config()
  small = make_config('rule.lstm_size=32')
  assert small.relative_cost('chain_long') == 1.
  assert (small.relative_cost('random_dense')
          > 2. * config.relative_cost('random_dense'))


def test_an_own_environment_has_a_cost_by_its_agent():
  config = make_config(*_OWN_ROW, f'environments=chain_short,{_OWN}',
                       'meta.num_lifetimes=30')
  assert config.relative_cost(_OWN) == config.relative_cost('random_dense')
  tables, own = config.lifetimes_per_environment()
  assert tables > own


@pytest.mark.parametrize('shares', [(), (1.,) * 14 + (5.,)])
@pytest.mark.parametrize('total', [15, 16, 17, 30, 100, 960, 100_000])
def test_the_split_by_cost(total, shares):
  """n_k is proportional to share / sqrt(cost), and at least one."""
  config = make_config(f'meta.num_lifetimes={total}',
                       f'shares={",".join(map(str, shares))}')
  counts = config.lifetimes_per_environment()
  assert sum(counts) == total and min(counts) >= 1
  wanted = [share / math.sqrt(config.relative_cost(name)) for share, name
            in zip(shares or (1.,) * KINDS, config.environments)]
  if total >= 960:  # Otherwise some would get less than one.
    exact = total * np.array(wanted) / sum(wanted)
    assert np.all(np.abs(np.array(counts) - exact) < 1.)
  for i, j in itertools.combinations(range(KINDS), 2):
    if wanted[i] > wanted[j]:
      assert counts[i] >= counts[j] - 1


def test_equal_costs_are_equal_shares():
  assert allocation.by_cost(10, (1., 1., 1.), (7., 7., 7.)) == (4, 3, 3)
  assert allocation.by_cost(3, (1., 1., 1.), (1., 9., 900.)) == (1, 1, 1)
  assert allocation.by_cost(12, (1., 1., 2.), (4., 1., 4.)) == (2, 5, 5)


def test_the_variance_is_the_lowest_for_the_cost():
  """No other numbers of lifetimes cost as little and vary as little."""
  costs, total = (1., 4., 50.), 24
  cost_of = lambda counts: np.dot(counts, costs)
  variance_of = lambda counts: sum(1. / n for n in counts)
  found = allocation.by_cost(total, (1.,) * 3, costs)
  for counts in itertools.product(range(1, total), repeat=3):
    if cost_of(counts) <= cost_of(found):
      assert variance_of(counts) >= 0.97 * variance_of(found), counts


@pytest.mark.parametrize('shares', [(), (3, 1, 1) * 5])
@pytest.mark.parametrize('total', [15, 31, 960])
def test_weights_are_exact(total, shares):
  """The weights of a kind's lifetimes add up to its share of the total."""
  config = make_config(f'meta.num_lifetimes={total}',
                       f'shares={",".join(map(str, shares))}')
  shares = [fractions.Fraction(x) for x in shares or (1,) * KINDS]
  counts = config.lifetimes_per_environment()
  assert sum(counts) == total
  for share, count, weight in zip(
      shares, counts, allocation.weights(counts, shares)):
    assert weight * count == share / sum(shares) * total
  for spec in config.shards():
    k = config.environments.index(spec.environment)
    assert spec.weight == pytest.approx(
        float(shares[k] / sum(shares) * total / counts[k]), rel=1e-15)


@pytest.mark.parametrize('shares', [(), (3., 1.)])
def test_the_expected_gradient_is_that_of_equal_shares(shares):
  """By enumeration of all outcomes of four lifetimes with two gradients each.

  The expectation of the meta-gradient is the mean over kinds, by share, of the
  expectation of a lifetime's gradient. It does not depend on the split.
  """
  kinds = ('chain_short', 'random_very_dense')
  values = {'chain_short': (1., 5.), 'random_very_dense': (-40., 16.)}

  def expectation(by, weighted=True):
    config = make_config(
        f'environments={",".join(kinds)}', 'meta.num_lifetimes=4',
        f'shares={",".join(map(str, shares))}', by=by)
    slots = [(name, slot) for name, count in zip(
        kinds, config.lifetimes_per_environment()) for slot in range(count)]
    outcomes = [dict(zip(slots, drawn)) for drawn in itertools.product(
        *(values[name] for name, _ in slots))]
    assert len(outcomes) == 2 ** 4
    return config.lifetimes_per_environment(), np.mean([
        mean_gradient(config, lambda *slot: outcome[slot], weighted)
        for outcome in outcomes])

  first, second = 0.75, 0.25
  if not shares:
    first = second = 0.5
  expected = first * 3. - second * 12.
  counts, found = expectation('cost')
  assert counts == (3, 1)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  if shares:  # The numbers are proportional to the shares: no weights needed.
    return
  counts, found = expectation('share')
  assert counts == (2, 2)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  _, unweighted = expectation('cost', weighted=False)
  assert abs(unweighted - expected) > 1.


@pytest.mark.parametrize('total', [15, 30, 101, 960])
def test_fifteen_kinds_count_equally(total):
  """With a constant gradient for each kind, whatever their numbers."""
  config = make_config(f'meta.num_lifetimes={total}')
  of_kind = dict(zip(config.environments, 1.5 ** np.arange(KINDS)))
  equal = np.mean(list(of_kind.values()))
  gradient = lambda kind, slot: of_kind[kind]
  np.testing.assert_allclose(mean_gradient(config, gradient), equal, rtol=1e-6)
  unweighted = mean_gradient(config, gradient, weighted=False)
  assert total == 15 or abs(unweighted / equal - 1.) > 0.02


def test_a_weight_of_one_changes_no_bit():
  rng = np.random.default_rng(0)
  config = make_config(by='share')
  specs = {spec.shard_id: spec for spec in config.shards()}
  gradients = [types.MetaGradient(
      0, i, np.float32(rng.normal(size=50) * 10. ** rng.integers(-6, 7, 50)),
      spec.num_lifetimes, {}) for i, spec in specs.items()]
  total = np.zeros(50, np.float32)
  for gradient in gradients:
    total += gradient.gradient_sum
  found, divisor = gradient_sum.weighted(gradients, specs, config)
  np.testing.assert_array_equal(found, total)
  assert divisor == 960


def test_asynchronous_updates_have_the_expectation_too():
  """One shard in each update; over all shards the mean is that of the kinds."""
  config = make_config('run.mode=async')
  specs = {spec.shard_id: spec for spec in config.shards()}
  of_kind = dict(zip(config.environments, 1.5 ** np.arange(KINDS)))
  steps = []
  for i, spec in specs.items():
    gradient = np.float32([spec.num_lifetimes * of_kind[spec.environment]])
    total, divisor = gradient_sum.weighted(
        [types.MetaGradient(0, i, gradient, spec.num_lifetimes, {})],
        specs, config)
    steps.append(total[0] / divisor)
  np.testing.assert_allclose(np.mean(steps), np.mean(list(of_kind.values())),
                             rtol=1e-6)


@pytest.mark.parametrize('total, per_shard', [(30, 16), (960, 16), (960, 1)])
def test_no_shard_by_cost_holds_up_the_others(total, per_shard):
  """None costs more than a full shard of tables, or a single lifetime."""
  config = make_config(f'meta.num_lifetimes={total}',
                       f'run.lifetimes_per_shard={per_shard}')
  for spec in config.shards():
    cost = spec.num_lifetimes * config.relative_cost(spec.environment)
    assert spec.num_lifetimes == 1 or cost <= per_shard * 1.3


def test_shards_share_programs_whatever_their_weights():
  """The weight acts on the gradient that comes out, clipped by lifetime."""
  keys = {traced_programs._key(make_config(by=by), 'chain_short', 2, 'cpu')
          for by in ('share', 'cost')}
  assert len(keys) == 1


def test_only_laptop_divides_lifetimes_by_cost():
  by = {name: presets.load(name).lifetimes_by for name in presets.PRESETS}
  assert by == {'demo': 'share', 'laptop': 'cost', 'paper': 'share'}
  assert config_io.from_dict({}).lifetimes_by == 'share'
  counts = presets.laptop().lifetimes_per_environment()
  assert sum(counts) == 30
  assert dict(zip(config_lib.AGENTS, counts))['random_very_dense'] == 1
