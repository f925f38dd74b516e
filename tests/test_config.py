"""The paper's tables as typed here, the checks, JSON and overrides."""

import dataclasses
import json
import math

import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.envs import suite

SGD, ADAM = (20, 40, 80), (0.0005, 0.001, 0.002, 0.005)
# Table 3: filters, units, optimiser, learning rates, lifetime.
TABLE_3 = {
    'tabular_dense': ((), (), 'sgd', SGD, 3e6),
    'tabular_sparse': ((), (), 'sgd', SGD, 3e6),
    'tabular_long_horizon': ((), (), 'sgd', SGD, 3e6),
    'tabular_longer_horizon': ((), (), 'sgd', SGD, 3e6),
    'tabular_long_dense': ((), (), 'sgd', SGD, 3e6),
    'random_dense': ((16,), (32,), 'adam', ADAM, 30e6),
    'random_long_horizon': ((16,), (32,), 'adam', ADAM, 30e6),
    'random_small': ((), (32,), 'adam', ADAM, 30e6),
    'random_small_sparse': ((), (32,), 'adam', ADAM, 30e6),
    'random_very_dense': ((32, 16, 16), (256,), 'adam', ADAM, 30e6),
    'chain_short': ((), (), 'sgd', SGD, 1e6),
    'chain_short_noisy': ((), (), 'sgd', SGD, 1e6),
    'chain_long': ((), (), 'sgd', SGD, 1e6),
    'chain_long_noisy': ((), (), 'sgd', SGD, 1e6),
    'chain_state_distraction': ((), (16,), 'adam', (0.002, 0.005, 0.01), 2e6),
}


def apply(*overrides):
  return config_io.apply_overrides(presets.paper(), overrides)


def refused(call, *args, **kwargs):
  """The message of the refusal, which is one line."""
  with pytest.raises(config_lib.ConfigError) as info:
    call(*args, **kwargs)
  assert '\n' not in str(info.value)
  return str(info.value)


def test_table_2():
  config = presets.paper()
  meta, bandit = config.meta, config.bandit
  assert meta.learning_rate == 0.0001
  assert meta.gammas == (0.995, 0.99)
  assert meta.policy_entropy_costs == (0.01, 0.02)
  assert meta.prediction_entropy_cost == 0.001
  assert meta.pi_hat_cost == 0.001
  assert meta.y_hat_cost == 0.001
  assert (bandit.temperature, bandit.exploration_bonus) == (0.1, 0.2)
  assert bandit.window == 10  # B.1
  assert meta.trajectory_steps == 20
  assert meta.num_updates == 5
  assert meta.num_lifetimes == 960
  assert meta.num_envs == 64
  assert meta.window_env_steps == 6400
  assert meta.max_gradient_norm == meta.max_lifetime_gradient_norm == 0.
  assert meta.lifetime_scale == 1.
  assert config.rule == config_lib.RuleConfig(30, 16, 256)  # B.1


@pytest.mark.parametrize('name', TABLE_3)
def test_table_3(name):
  agent = presets.paper().agents[name]
  conv, dense, optimiser, rates, steps = TABLE_3[name]
  assert (agent.conv, agent.dense, agent.optimiser) == (conv, dense, optimiser)
  assert agent.learning_rates == rates
  assert agent.kl_costs == (0.1, 0.5, 1)
  assert agent.lifetime_env_steps == steps
  assert agent.is_table == (optimiser == 'sgd')
  assert agent.arms == tuple((r, c) for r in rates for c in (0.1, 0.5, 1))


def test_table_3_has_all_environments():
  assert tuple(TABLE_3) == suite.ENVIRONMENTS == tuple(config_lib.AGENTS)
  assert presets.paper().environments == suite.ENVIRONMENTS


OTHERS = tuple(suite.BEYOND_THE_PAPER)


def test_kinds_beyond_the_paper_are_in_no_preset():
  assert tuple(config_lib.AGENTS_BEYOND_THE_PAPER) == OTHERS
  for preset in presets.PRESETS:
    config = presets.load(preset)
    assert not set(OTHERS) & set(config.environments)
    assert tuple(config.agents) == suite.ENVIRONMENTS


@pytest.mark.parametrize('name', OTHERS)
def test_kinds_beyond_the_paper_bring_their_rows(name):
  config = config_io.apply_overrides(presets.demo(), [
      f'environments={name},chain_short'])
  assert config == dataclasses.replace(
      presets.demo(), environments=(name, 'chain_short'))
  assert set(config.agents) == {*suite.ENVIRONMENTS, name}
  assert config.agents[name] == config_lib.AGENTS_BEYOND_THE_PAPER[name]
  assert config_io.from_dict(config_io.to_dict(config)) == config
  # A row that is given counts, and `*` means this row too.
  for changes in (
      [f'environments={name}', f'agents.{name}.lifetime_env_steps=70'],
      [f'agents.{name}.lifetime_env_steps=70', f'environments={name}'],
      [f'environments={name}', 'agents.*.lifetime_env_steps=70']):
    changed = config_io.apply_overrides(presets.demo(), changes)
    assert changed.agents[name] == dataclasses.replace(
        config.agents[name], lifetime_env_steps=70)


def test_table_4():
  evaluator = presets.paper().evaluator
  assert evaluator.learning_rate == 0.0005
  assert evaluator.kl_cost == 0.5
  assert evaluator.gamma == 0.995
  assert evaluator.trajectory_steps == 20
  assert evaluator.num_envs == 30
  assert evaluator.use_baseline


WHOLE = ('rule.num_predictions', 'rule.embedding_size', 'rule.lstm_size',
         'meta.trajectory_steps', 'meta.num_updates', 'meta.num_lifetimes',
         'meta.num_envs', 'bandit.window', 'evaluator.frames',
         'evaluator.num_envs', 'evaluator.trajectory_steps', 'run.meta_steps',
         'run.num_workers', 'run.lifetimes_per_shard',
         'run.checkpoint_period_steps', 'run.checkpoints_kept',
         'run.eta_snapshot_period_steps', 'agents.chain_long.dense',
         'agents.random_dense.conv', 'agents.chain_long.lifetime_env_steps')
POSITIVE = ('meta.learning_rate', 'meta.lifetime_scale',
            'outer.table_learning_rate', 'outer.network_learning_rate',
            'bandit.temperature', 'evaluator.learning_rate',
            'evaluator.share',
            'run.checkpoint_period_s', 'run.step_timeout_s',
            'agents.chain_long.learning_rates')
NOT_NEGATIVE = ('meta.max_gradient_norm', 'meta.gammas',
                'meta.max_lifetime_gradient_norm',
                'meta.policy_entropy_costs', 'meta.prediction_entropy_cost',
                'meta.pi_hat_cost', 'meta.y_hat_cost',
                'meta.min_policy_entropy', 'meta.y_table_stddev',
                'outer.td_lambda', 'outer.advantage_ema_decay',
                'bandit.exploration_bonus', 'evaluator.kl_cost',
                'evaluator.gamma', 'evaluator.pause_s',
                'agents.chain_long.kl_costs')
ZERO_OR_MORE = ('run.seed', 'run.gradients_per_update', 'run.max_staleness',
                'evaluator.period_meta_steps', 'meta.learning_rate_decay_steps')


@pytest.mark.parametrize('name', WHOLE)
@pytest.mark.parametrize('value', ['0', '-1', '1.5', 'nan', 'true', 'x',
                                   str(2 ** 31)])
def test_whole_numbers(name, value):
  message = refused(apply, f'{name}={value}')
  assert message.startswith(name) and 'allowed: ' in message


@pytest.mark.parametrize('name', ZERO_OR_MORE)
@pytest.mark.parametrize('value', ['-1', '0.5', 'inf', str(2 ** 31)])
def test_whole_numbers_from_zero(name, value):
  apply(f'{name}=0')
  assert refused(apply, f'{name}={value}').startswith(name)


@pytest.mark.parametrize('name', POSITIVE + NOT_NEGATIVE)
@pytest.mark.parametrize('value', ['-1', '-0.001', 'nan', 'inf', '1e999',
                                   'true', 'x'])
def test_numbers(name, value):
  message = refused(apply, f'{name}={value}')
  assert message.startswith(name) and 'allowed: a number' in message


def test_zero():
  for name in POSITIVE:
    assert refused(apply, f'{name}=0').startswith(name)
  for name in NOT_NEGATIVE:
    apply(f'{name}=0')


@pytest.mark.parametrize('override', [
    'meta.gammas=1.01', 'meta.gammas=0.9,1.01', 'outer.td_lambda=1.01',
    'outer.advantage_ema_decay=1', 'meta.learning_rate=1.1',
    'outer.table_learning_rate=1.1', 'evaluator.gamma=2',
    'evaluator.share=1.1'])
def test_upper_bounds(override):
  assert 'and <= ' in refused(apply, override)


_OWN = 'agents.module/my_grid:Queues'


@pytest.mark.parametrize('overrides, rates', [
    ([f'{_OWN}.lifetime_env_steps=64000'], (20, 40, 80)),
    ([f'{_OWN}.dense=32', f'{_OWN}.optimiser=adam'],
     (0.0005, 0.001, 0.002, 0.005)),
    ([f'{_OWN}.optimiser=adam', f'{_OWN}.learning_rates=0.1'], (0.1,)),
    (['agents.chain_long.learning_rates='], (20, 40, 80)),
])
def test_the_optimiser_decides_on_the_default_learning_rates(overrides, rates):
  config = config_io.apply_overrides(presets.paper(), overrides)
  name = overrides[0].rpartition('.')[0].partition('.')[2]
  assert config.agents[name].learning_rates == rates


@pytest.mark.parametrize('name', [
    'environments', 'meta.gammas', 'meta.policy_entropy_costs',
    'agents.chain_long.kl_costs'])
def test_no_empty_lists(name):
  assert refused(apply, f'{name}=') == f'{name} needs at least one value'


@pytest.mark.parametrize('override, parts', [
    ('environments=tabular_dens',
     ['tabular_dens', 'did you mean tabular_dense?', *suite.ENVIRONMENTS]),
    ('environments=chain_long,chain_long', ['twice']),
    ('shares=1,2', ['2 numbers for 15 environments']),
    ('meta.num_lifetimes=14', ['14', 'at least one per environment (15)']),
    ('run.mode=fast', ["'fast'", 'allowed: sync, async']),
    ('lifetimes_by=price', ["'price'", 'allowed: share, cost']),
    ('run.matmul_precision=double',
     ["'double'", 'allowed: highest, high, default']),
    ('agents.chain_long.optimiser=adm',
     ["agents.chain_long.optimiser is 'adm'", 'allowed: sgd, adam']),
    ('evaluator.preset=x', ["'x'", 'allowed: dm_noop, machado']),
    ('evaluator.games=brekout', ["'brekout'", 'did you mean breakout']),
    ('evaluator.games=pong,pong', ['names one twice']),
    ('evaluator.enabled=maybe', ["'maybe'", 'allowed: true, false']),
    ('rule.sees_policy=2', ["'2'", 'allowed: true, false']),
    ('meta.staggered_ages=yes', ["'yes'", 'allowed: true, false']),
    ('meta.num_update=3',
     ["'meta.num_update'", 'did you mean num_updates?', 'trajectory_steps']),
    ('agents.chain.dense=3', ["'agents.chain'", 'chain_short', 'allowed']),
    ('agents.*.units=3', ['allowed: conv, dense']),
    ('mta.num_updates=3', ["'mta'", 'did you mean meta?']),
    ('meta=3', ["meta is '3'", 'a group of fields']),
    ('agents=3', ["agents is '3'", 'a group of fields']),
    ('meta.num_updates.x=3', ['meta.num_updates', 'a whole number']),
    ('meta.num_updates', ['allowed: field=value']),
])
def test_what_is_wrong_is_said(override, parts):
  message = refused(apply, override)
  assert all(part in message for part in parts), message


@pytest.mark.parametrize('build', [
    lambda: config_lib.MetaConfig(learning_rate=True),
    lambda: config_lib.MetaConfig(learning_rate='0.1'),
    lambda: config_io.from_dict({'meta': {'learning_rate': 10 ** 400}}),
    lambda: config_lib.MetaConfig(num_updates=True),
    lambda: config_lib.MetaConfig(num_updates=0),
    lambda: config_lib.MetaConfig(num_updates=2.5),
    lambda: config_lib.MetaConfig(gammas=[0.9]),
    lambda: config_lib.MetaConfig(gammas=0.9),
    lambda: config_lib.MetaConfig(gammas=(True,)),
    lambda: config_lib.MetaConfig(gammas=(math.nan,)),
    lambda: config_lib.AgentConfig(conv=[16]),
    lambda: config_lib.AgentConfig(dense=16),
    lambda: config_lib.EvaluatorConfig(enabled='no'),
    lambda: config_lib.EvaluatorConfig(use_baseline=1),
    lambda: config_lib.Config(environments='chain_long'),
    lambda: config_lib.Config(environments=('chain_long', 'x')),
    lambda: config_lib.Config(environments=()),
    lambda: config_lib.Config(agents={}),
    lambda: config_lib.Config(environments=('chain_long',), shares=(0.,)),
    lambda: config_lib.Config(environments=('chain_long',), shares=[1.]),
])
def test_python_values_are_checked_too(build):
  refused(build)


@pytest.mark.parametrize('values', [
    3, [], None, {'meta': 3}, {'meta': None}, {'agents': 3}, {'agents': []},
    {'agents': {'chain_long': 3}}, {'meta': {'num_updates': 5.5}},
    {'meta': {'num_updates': True}}, {'meta': {'learning_rate': True}},
    {'meta': {'learning_rate': None}}, {'meta': {'gammas': 0.9}},
    {'meta': {'gammas': {'a': 1}}}, {'meta': {'gammas': [[0.9]]}},
    {'environments': [3]}, {'run': {'mode': 3}}, {'evaluator': {'enabled': 2}},
    {'x': 1}, {'meta': {'learning_rate': math.nan}},
])
def test_other_json_is_refused(values):
  assert 'allowed' in refused(config_io.from_dict, values)


@pytest.mark.parametrize('name', presets.PRESETS)
def test_round_trip(name):
  config = presets.load(name)
  values = config_io.to_dict(config)
  assert config_io.from_dict(json.loads(json.dumps(values))) == config
  assert config_io.from_dict({}) == config_lib.Config()


def test_file(tmp_path):
  file = tmp_path / 'config.json'
  file.write_text('{"meta": {"num_updates": 7}, "run": {"seed": 3}, '
                  '"agents": {"chain_long": {"kl_costs": [2]}}}')
  config = config_io.load_file(presets.paper(), str(file))
  assert config == apply('meta.num_updates=7', 'run.seed=3',
                         'agents.chain_long.kl_costs=2')


@pytest.mark.parametrize('content', [
    '', '{', '{"meta": {"num_updates": 5}', '[1]', '3', 'null',
    '{"meta": {"num_updates": 0}}', '{"meta": {"learning_rate": NaN}}',
    '{"meta": {"x": 0}}', '{"meta": [1]}', '\x00\xff'])
def test_bad_files_are_named(tmp_path, content):
  file = tmp_path / 'config.json'
  file.write_bytes(content.encode('latin-1'))
  message = refused(config_io.load_file, presets.paper(), str(file))
  assert message.startswith(str(file))


def test_missing_file_and_directory_are_named(tmp_path):
  for path in (tmp_path, tmp_path / 'none.json'):
    assert str(path) in refused(config_io.load_file, presets.paper(),
                                str(path))


def test_overrides():
  config = apply(
      'environments = chain_long, tabular_dense', 'shares=1,3',
      'agents.*.lifetime_env_steps=80', 'agents.chain_long.dense=8,4',
      'agents.*.learning_rates=1', 'evaluator.enabled=False', 'run.mode=async',
      'meta.num_updates=3', 'meta.num_updates=4')
  assert config.environments == ('chain_long', 'tabular_dense')
  assert config.shares == (1., 3.)
  assert {a.lifetime_env_steps for a in config.agents.values()} == {80}
  assert {a.learning_rates for a in config.agents.values()} == {(1.,)}
  assert config.agents['chain_long'].dense == (8, 4)
  assert config.agents['tabular_dense'].dense == ()
  assert not config.evaluator.enabled and config.run.mode == 'async'
  assert config.meta.num_updates == 4  # The last one counts.


@pytest.mark.parametrize('preset', presets.PRESETS)
def test_every_preset_can_have_every_environment(preset):
  config = config_io.apply_overrides(presets.load(preset), [
      'environments=' + ','.join(suite.ENVIRONMENTS), 'meta.num_lifetimes=30'])
  assert set(config.agents) == set(suite.ENVIRONMENTS)


def test_overrides_leave_the_base_alone():
  base = presets.paper()
  config_io.apply_overrides(base, ['agents.*.conv=3', 'meta.num_updates=9'])
  assert base == presets.paper()


def test_unknown_preset():
  message = refused(presets.load, 'labtop')
  assert 'did you mean laptop?' in message and 'demo, laptop, paper' in message


CHANGED = {
    'run.meta_steps': '7', 'run.num_workers': '7',
    'run.checkpoint_period_steps': '7', 'run.checkpoint_period_s': '7',
    'run.checkpoints_kept': '7', 'run.eta_snapshot_period_steps': '7',
    'run.step_timeout_s': '7', 'evaluator.enabled': 'false',
    'evaluator.games': 'pong', 'evaluator.frames': '7',
    'run.seed': '7', 'run.mode': 'async', 'run.lifetimes_per_shard': '7',
    'run.gradients_per_update': '7', 'run.max_staleness': '7',
    'run.matmul_precision': 'high', 'lifetimes_by': 'cost',
    'meta.num_lifetimes': '77', 'rule.lstm_size': '7', 'bandit.window': '7',
    'outer.td_lambda': '0.7', 'meta.y_hat_cost': '0.7',
    'environments': 'chain_long', 'agents.chain_long.kl_costs': '7',
}


@pytest.mark.parametrize('name', CHANGED)
def test_difference(name):
  """What changes numbers is told; what does not may change on resume."""
  old, new = presets.paper(), apply(f'{name}={CHANGED[name]}')
  assert old != new
  may_change = name.startswith('evaluator.') or name in list(CHANGED)[:7]
  found = config_io.difference(old, new)
  assert [d.split(':')[0] for d in found] == ([] if may_change else [name])


def test_difference_names_old_and_new():
  assert config_io.difference(presets.paper(), apply(
      'meta.num_updates=3', 'bandit.window=4', 'run.meta_steps=7')) == [
          'bandit.window: 10 -> 4', 'meta.num_updates: 5 -> 3']


def test_no_difference():
  assert not config_io.difference(presets.demo(), presets.demo())


@pytest.mark.parametrize('shares, total, expected', [
    ((), 9, (3, 3, 3)), ((), 10, (4, 3, 3)), ((), 3, (1, 1, 1)),
    ((1., 1., 2.), 11, (3, 3, 5)), ((1e-9, 1., 1.), 9, (1, 4, 4)),
    ((1., 1., 1e9), 960, (1, 1, 958)), ((3., 1., 1.), 960, (575, 193, 192)),
])
def test_lifetimes_per_environment(shares, total, expected):
  config = config_lib.Config(
      environments=suite.ENVIRONMENTS[:3], shares=shares,
      meta=config_lib.MetaConfig(num_lifetimes=total))
  assert config.lifetimes_per_environment() == expected
  assert sum(expected) == total


@pytest.mark.parametrize('total', [15, 16, 31, 100, 960])
@pytest.mark.parametrize('per_shard', [1, 7, 16, 1000])
def test_shards_cover_every_slot_once(total, per_shard):
  config = apply(f'meta.num_lifetimes={total}',
                 f'run.lifetimes_per_shard={per_shard}')
  shards = config.shards()
  assert [s.shard_id for s in shards] == list(range(len(shards)))
  for name, count in zip(config.environments,
                         config.lifetimes_per_environment()):
    mine = [s for s in shards if s.environment == name]
    slots = [s.first_slot + i for s in mine for i in range(s.num_lifetimes)]
    assert slots == list(range(count))
    assert all(s.kind_lifetimes == count for s in mine)
    sizes = {s.num_lifetimes for s in mine}
    assert max(sizes) <= per_shard and max(sizes) - min(sizes) <= 1
    assert len(mine) == -(-count // per_shard)


def test_shards_do_not_depend_on_workers():
  assert apply('run.num_workers=1').shards() == apply(
      'run.num_workers=9').shards()


def test_lifetime_windows():
  config = presets.paper()
  # 3 M, 30 M and 1 M steps by 5 updates of 20 steps in 64 environments.
  assert config.lifetime_windows('tabular_dense') == 469
  assert config.lifetime_windows('random_dense') == 4688
  assert config.lifetime_windows('chain_long') == 156
  assert apply('meta.lifetime_scale=0.1').lifetime_windows('chain_long') == 16
  assert apply('meta.lifetime_scale=1e-9').lifetime_windows('chain_long') == 1
  assert presets.demo().lifetime_windows('chain_short') == 20


def test_configurations_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    presets.paper().meta.num_updates = 3


def test_kinds_of_rules():
  assert refused(apply, 'rule.kind=mlp').startswith("rule.kind is 'mlp'; ")
  for kind in ('lpg_v', 'lpg_vector'):
    assert 'allowed with it: evaluator.enabled=false' in refused(
        apply, f'rule.kind={kind}')
    config = apply('evaluator.enabled=false', f'rule.kind={kind}')
    assert config.rule.kind == kind
