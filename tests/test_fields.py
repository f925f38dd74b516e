"""Numbers of Python, NumPy and JAX: the same value, or refused in one line."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed import presets
from lpg_distributed.launch import command
from lpg_distributed.meta_testing import jobs
from tests.launch import command_testing


@pytest.mark.parametrize('value', [3, 3., np.int64(3), np.float32(3),
                                   jnp.int32(3), np.array(3)])
def test_whole_numbers_become_plain(value):
  config = config_lib.MetaConfig(num_updates=value, learning_rate=1.)
  assert config.num_updates == 3 and type(config.num_updates) is int
  assert config == config_lib.MetaConfig(num_updates=3, learning_rate=1)
  assert hash(config) is not None and json.dumps(dataclasses.asdict(config))


@pytest.mark.parametrize('text, number', [
    ('1e6', 1_000_000), ('3.', 3), ('20', 20), (' 7 ', 7)])
def test_whole_numbers_as_texts(text, number):
  config = config_io.apply_overrides(presets.paper(),
                                     [f'run.meta_steps={text}'])
  assert config.run.meta_steps == number
  assert type(config.run.meta_steps) is int


@pytest.mark.parametrize('value', [True, np.bool_(True), '3', None, 2.5,
                                   float('nan'), float('inf'), [3], 0, 2 ** 31])
def test_what_is_no_whole_number(value):
  with pytest.raises(config_lib.ConfigError,
                     match='^meta.num_updates is .*; allowed: a whole number'):
    config_lib.MetaConfig(num_updates=value)


@pytest.mark.parametrize('value', [True, np.bool_(False), '1', None, -1.,
                                   np.float32('nan'), jnp.inf, 10 ** 400])
def test_what_is_no_number(value):
  with pytest.raises(fields.FieldError, match='^x is .*; allowed: a number'):
    fields.Real().check('x', value)


def test_messages_name_the_whole_path():
  with pytest.raises(config_lib.ConfigError) as info:
    config_io.from_dict({'agents': {'chain_long': {'kl_costs': [0.1, -1]}}})
  assert str(info.value).startswith('agents.chain_long.kl_costs is -1')


SEEDS = {
    'create_rule': lambda seed: lpg.create_rule(seed),
    'train_agents': lambda seed: lpg.train_agents(
        lpg.create_rule(0, config_lib.RuleConfig(3, 2, 2)), 'chain_short',
        learning_rate=40., kl_cost=0.5, updates=1, seed=seed),
    'jobs': lambda seed: jobs.make_job('gymnax/Catch-bsuite', 'a2c',
                                       seeds=(seed,)),
    'run.seed': lambda seed: config_lib.RunConfig(seed=seed),
}


@pytest.mark.parametrize('entry', SEEDS)
@pytest.mark.parametrize('seed', [2 ** 40, 2 ** 32, -1, True, 0.5])
def test_seeds_beyond_32_bits_are_refused(entry, seed):
  """`create_rule(seed=2**40)` would be the rule of seed 0."""
  with pytest.raises(errors.UserError) as info:
    SEEDS[entry](seed)
  assert 'allowed: a whole number from 0' in str(info.value)
  assert '\n' not in str(info.value)


def test_seeds_of_numpy_and_jax_and_a_single_one():
  config = config_lib.RuleConfig(3, 2, 2)
  first = lpg.create_rule(7, config).eta
  for seed in (np.int64(7), jnp.int32(7), 7.):
    np.testing.assert_array_equal(lpg.create_rule(seed, config).eta, first)
  job = jobs.make_job('gymnax/Catch-bsuite', 'a2c', seeds=np.int64(3))
  assert job.seeds == (3,) and type(job.seeds[0]) is int


@pytest.mark.parametrize('name', [
    'figure3', 'figure4', 'figure5', 'figure6', 'gradient_noise',
    'sensitivity'])
def test_commands_refuse_seeds_beyond_32_bits(name, tmp_path, capsys):
  for seed in (2 ** 31, 2 ** 40, -1, 'x'):
    assert command_testing.call(name, [
        f'--run={tmp_path}', f'--seed={seed}']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and f'seed={seed}' in err


def test_lists_of_seeds():
  assert command.parse_seeds(['3', '0']) == (3, 0)
  for seed in ('2147483648', str(2 ** 40), '-1'):
    with pytest.raises(fields.FieldError, match='^--seeds is .*; allowed: a'):
      command.parse_seeds(['0', seed])
  with pytest.raises(command.UsageError, match='^--seeds is .*, as 0,1,2'):
    command.parse_seeds(['x'])
