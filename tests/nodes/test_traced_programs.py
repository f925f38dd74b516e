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
def kept(tmp_path_factory):
  """The name and content of a file that was made once."""
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
def directory(tmp_path, kept):
  """The directory of compiled programs, with that file in it."""
  (tmp_path / 'traced').mkdir()
  (tmp_path / 'traced' / kept[0]).write_bytes(kept[1])
  with compilation_cache(tmp_path):
    yield tmp_path


def make(config=CONFIG):
  return lifetime.make_shard(config, KIND, LIFETIMES)


def untraceable(shard):
  def advance(*arguments):
    raise AssertionError('traced again')

  return shard._replace(advance=advance)


def two_windows(shard, devices=None):
  """Everything that comes out of two windows of two shards, as leaves."""
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
  return found


def assert_same(found, expected):
  structures = [jax.tree_util.tree_structure(x) for x in (found, expected)]
  assert structures[0] == structures[1]
  for a, b in zip(*map(jax.tree_util.tree_leaves, (found, expected))):
    np.testing.assert_array_equal(a, b)


def use_what_is_kept(config=CONFIG):
  return traced_programs.traced(untraceable(make(config)), config, KIND,
                                LIFETIMES)


@pytest.mark.usefixtures('directory')
def test_same_numbers_without_tracing():
  expected = two_windows(make())
  assert np.ptp(np.asarray(expected[1][0])) > 0.
  assert_same(two_windows(use_what_is_kept()), expected)


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
def test_another_configuration_is_another_program(config):
  with pytest.raises(AssertionError, match='traced again'):
    use_what_is_kept(config)


@pytest.mark.usefixtures('directory')
def test_other_code_is_another_program(monkeypatch):
  monkeypatch.setattr(traced_programs, '_fingerprint_of_code', lambda: 'x')
  with pytest.raises(AssertionError, match='traced again'):
    use_what_is_kept()


@pytest.mark.usefixtures('directory')
def test_another_platform_is_another_program():
  with pytest.raises(AssertionError, match='traced again'):
    traced_programs.traced(untraceable(make()), CONFIG, KIND, LIFETIMES, 'tpu')


@pytest.mark.usefixtures('directory')
def test_unrelated_settings_share_a_program():
  use_what_is_kept(changed('run', seed=5, num_workers=1, meta_steps=3))


@pytest.mark.parametrize('damage', [
    lambda data: b'', lambda data: b'x' * 100,
    lambda data: data[:len(data) // 2]])
def test_a_damaged_file_is_not_used(directory, kept, damage):
  (directory / 'traced' / kept[0]).write_bytes(damage(kept[1]))
  with pytest.raises(AssertionError, match='traced again'):
    use_what_is_kept()


def test_a_damaged_file_is_made_again(directory, kept):
  file = directory / 'traced' / kept[0]
  file.write_bytes(b'')
  traced_programs.traced(make(), CONFIG, KIND, LIFETIMES)
  assert file.stat().st_size > 10_000
  use_what_is_kept()


def test_a_directory_that_cannot_be_written(tmp_path):
  (tmp_path / 'traced').write_text('')  # Where the directory would be.
  with compilation_cache(tmp_path):
    shard = traced_programs.traced(make(), CONFIG, KIND, LIFETIMES)
  assert shard.advance is not make().advance


def test_without_a_directory():
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


def test_on_two_devices(directory):
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
