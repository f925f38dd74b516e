"""Programs that are loaded from disk give the same numbers."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import device_shards
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import traced_programs

KIND, LIFETIMES = 'chain_short', 2
CONFIG = config_lib.Config(
    environments=(KIND,),
    rule=config_lib.RuleConfig(lstm_size=8, num_predictions=6),
    meta=config_lib.MetaConfig(num_lifetimes=4, num_envs=4, num_updates=2,
                               trajectory_steps=5))


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  """Name and content of the file of a program."""
  path = tmp_path_factory.mktemp('kept')
  with compilation_cache(path):
    traced_programs.traced(make(), CONFIG, KIND, LIFETIMES)
  (file,) = (path / 'traced').iterdir()
  return file.name, file.read_bytes()


@contextlib.contextmanager
def compilation_cache(path):
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', path and str(path))
  yield
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.fixture
def directory(tmp_path, stored):
  """A directory of compiled programs that has that file."""
  (tmp_path / 'traced').mkdir()
  (tmp_path / 'traced' / stored[0]).write_bytes(stored[1])
  with compilation_cache(tmp_path):
    yield tmp_path


def make(config=CONFIG):
  return lifetime.make_shard(config, KIND, LIFETIMES)


def untraceable(shard):
  def advance(*arguments):
    raise AssertionError('traced again')

  return shard._replace(advance=advance)


def two_windows(shard, devices=None):
  """All results of two windows of two shards, by one compiled program."""
  shards = device_shards.DeviceShards(shard, devices or jax.devices()[:1])
  eta = rule_vector.ravel(rule_vector.init(CONFIG.rule, jax.random.PRNGKey(1)))
  arms = np.zeros(len(CONFIG.agents[KIND].arms), np.float32)
  found = []
  for i in range(2):
    state = shard.empty()
    shard_id = lifetime.ShardId(*map(np.int32, (3, i, 2 * i, 4)))
    for step in range(2):
      ((gradient, state, metrics),) = shards.advance(
          eta, arms, [state], [shard_id], [step])
      found.append((gradient, state, metrics))
  assert shards.compiled._cache_size() == 1
  return found


def assert_same(found, expected):
  structures = [jax.tree_util.tree_structure(x) for x in (found, expected)]
  assert structures[0] == structures[1]
  for a, b in zip(*map(jax.tree_util.tree_leaves, (found, expected))):
    np.testing.assert_array_equal(a, b)


def load_stored(config=CONFIG):
  return traced_programs.traced(untraceable(make(config)), config, KIND,
                                LIFETIMES)


@pytest.mark.usefixtures('directory')
def test_a_stored_program_gives_the_same_numbers():
  expected = two_windows(make())
  assert np.ptp(np.asarray(expected[1][0])) > 0.
  assert_same(two_windows(load_stored()), expected)


def changed(group, **fields):
  return dataclasses.replace(CONFIG, **{group: dataclasses.replace(
      getattr(CONFIG, group), **fields)})


def changed_agent(**fields):
  return dataclasses.replace(CONFIG, agents={
      **CONFIG.agents,
      KIND: dataclasses.replace(CONFIG.agents[KIND], **fields)})


@pytest.mark.usefixtures('directory')
@pytest.mark.parametrize('config', [
    changed('meta', pi_hat_cost=0.5), changed('rule', lstm_size=4),
    changed('outer', td_lambda=0.5), changed_agent(kl_costs=(7.,)),
    changed_agent(lifetime_env_steps=5000),
    changed('run', matmul_precision='high')])
def test_another_configuration_is_traced_again(config):
  with pytest.raises(AssertionError, match='traced again'):
    load_stored(config)


@pytest.mark.usefixtures('directory')
def test_other_code_is_traced_again(monkeypatch):
  monkeypatch.setattr(traced_programs, '_fingerprint_of_code', lambda: 'x')
  with pytest.raises(AssertionError, match='traced again'):
    load_stored()


@pytest.mark.usefixtures('directory')
def test_another_platform_is_traced_again():
  with pytest.raises(AssertionError, match='traced again'):
    traced_programs.traced(untraceable(make()), CONFIG, KIND, LIFETIMES, 'tpu')


@pytest.mark.usefixtures('directory')
def test_configurations_with_other_run_settings_share_a_program():
  load_stored(changed('run', seed=5, num_workers=1, meta_steps=3))


@pytest.mark.parametrize('damage', [
    lambda data: b'', lambda data: b'x' * 100,
    lambda data: data[:len(data) // 2]])
def test_a_damaged_file_is_not_used(directory, stored, damage):
  (directory / 'traced' / stored[0]).write_bytes(damage(stored[1]))
  with pytest.raises(AssertionError, match='traced again'):
    load_stored()


def test_a_damaged_file_is_replaced(directory, stored):
  file = directory / 'traced' / stored[0]
  file.write_bytes(b'')
  traced_programs.traced(make(), CONFIG, KIND, LIFETIMES)
  assert file.stat().st_size > 10_000
  load_stored()


def test_programs_are_traced_if_they_cannot_be_stored(tmp_path):
  (tmp_path / 'traced').write_text('')  # Where the directory would be.
  with compilation_cache(tmp_path):
    shard = traced_programs.traced(make(), CONFIG, KIND, LIFETIMES)
  assert shard.advance is not make().advance


def test_without_a_directory_nothing_is_stored():
  shard = make()
  with compilation_cache(None):
    assert traced_programs.traced(shard, CONFIG, KIND, LIFETIMES) is shard


_ON_DEVICES = """
import jax
from tests.nodes import test_traced_programs as t
devices = jax.local_devices()
assert len(devices) == 2
with t.compilation_cache(__DIRECTORY__):
  shard = t.traced_programs.traced(t.make(), t.CONFIG, t.KIND, t.LIFETIMES)
t.assert_same(t.two_windows(shard, devices), t.two_windows(t.make()))
print('equal')
"""


@pytest.mark.long
def test_a_stored_program_gives_the_same_numbers_on_two_devices(directory):
  script = _ON_DEVICES.replace('__DIRECTORY__', repr(str(directory)))
  environment = {
      **os.environ, 'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': str(pathlib.Path(__file__).parents[2]),
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  done = subprocess.run([sys.executable, '-c', script], env=environment,
                        capture_output=True, text=True, timeout=600,
                        check=False)
  assert done.returncode == 0 and 'equal' in done.stdout, done.stderr
