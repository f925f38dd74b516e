"""Settings of the process under which results would be wrong."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import global_settings

SMALL = config_lib.RuleConfig(num_predictions=2, embedding_size=2, lstm_size=2)


def enable_x64():
  if hasattr(jax, 'enable_x64'):  # Of newer versions.
    return jax.enable_x64(True)
  return jax.experimental.enable_x64()


def refused(call):
  with pytest.raises(global_settings.SettingsError) as info:
    call()
  message = str(info.value)
  assert '\n' not in message and 'allowed: ' in message
  return message


def test_the_python_interface_names_the_setting(tmp_path):
  """The older one said of a good file that it is no rule (AssertionError)."""
  path = str(tmp_path / 'eta.npz')
  lpg.save_rule(path, lpg.create_rule(config=SMALL))
  calls = [lambda: lpg.load_rule(path), lambda: lpg.create_rule(config=SMALL),
           lambda: lpg.meta_train(lpg.load_config('demo'), str(tmp_path / 'r')),
           lambda: lpg.meta_test('a2c', 'gymnax/CartPole-v1')]
  for call in calls:
    with enable_x64():
      assert refused(call).startswith('jax_enable_x64 is True; allowed: False')
    with jax.default_prng_impl('rbg'):
      assert "jax_default_prng_impl is 'rbg'" in refused(call)
  assert not (tmp_path / 'r').exists()
  assert lpg.load_rule(path).config == SMALL


@pytest.mark.parametrize('setting', ['jax_debug_nans', 'jax_disable_jit'])
def test_training_names_settings_that_end_it(setting, tmp_path):
  before = getattr(jax.config, setting)
  rule = lpg.create_rule(config=SMALL)
  jax.config.update(setting, True)
  try:
    for call in (
        lambda: lpg.meta_train(lpg.load_config('demo'), str(tmp_path / 'r')),
        lambda: lpg.meta_test('a2c', 'gymnax/CartPole-v1'),
        lambda: lpg.train_agents(rule, 'tabular_dense', learning_rate=1.,
                                 kl_cost=1.)):
      assert f'{setting} is True; allowed: False' in refused(call)
    global_settings.check()  # A rule may be applied.
  finally:
    jax.config.update(setting, before)


def test_what_is_recorded(monkeypatch):
  monkeypatch.setenv('NPROC', '7')
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  found = global_settings.recorded()
  assert found['NPROC'] == '7' and 'XLA_FLAGS' not in found
  assert 'jax_enable_x64' not in found
  with enable_x64():
    assert global_settings.recorded()['jax_enable_x64'] == 'True'
  assert global_settings.differences({'a': 1, 'b': 2}, {'b': 3, 'c': 4}) == [
      'a: 1 -> not set', 'b: 2 -> 3', 'c: not set -> 4']
  assert np.float32 == np.asarray(jax.numpy.zeros(1)).dtype


def test_the_record_is_the_same_before_and_after_jax_is_imported():
  """Else a launch would warn of its own settings."""
  done = subprocess.run([sys.executable, '-c', """
import os
os.environ.update(JAX_DEFAULT_MATMUL_PRECISION='highest',
                  JAX_DISABLE_MOST_OPTIMIZATIONS='1', JAX_ENABLE_X64='0')
from lpg_distributed import global_settings
before = global_settings.recorded()
import jax
assert global_settings.recorded() == before, before
print(before['jax_disable_most_optimizations'], 'jax_enable_x64' in before)
"""], capture_output=True, text=True, check=True)
  assert done.stdout == 'True False\n'
