"""Shards on eight simulated devices, bit for bit as on one."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

_DEVICES = 8
_ROOT = pathlib.Path(__file__).parents[2]

# Runs in its own process: the number of devices is fixed when JAX starts.
_SCRIPT = '''
import logging
import sys
import jax
import jax.numpy as jnp
import numpy as np
from lpg_distributed import config as config_lib
from lpg_distributed.core import device_shards
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_vector

assert len(jax.local_devices()) == 8
jax.config.update('jax_log_compiles', True)
compiled = []


class Handler(logging.Handler):

  def emit(self, record):
    message = record.getMessage()
    if 'Compiling' in message and 'advance_one' in message:
      compiled.append(message)


logging.getLogger('jax').addHandler(Handler())
config = config_lib.Config(
    environments=('chain_short',),
    rule=config_lib.RuleConfig(lstm_size=8),
    meta=config_lib.MetaConfig(num_lifetimes=16, num_envs=4, num_updates=2,
                               trajectory_steps=5,
                               max_lifetime_gradient_norm=float(sys.argv[1])))
# Chunks of two, as on accelerators, also where each gradient is clipped.
lifetime.chunk_size = lambda *args: 2
eta = rule_vector.ravel(rule_vector.init(config.rule, jax.random.PRNGKey(0)))
for name in config.environments:
  shard = lifetime.make_shard(config, name, 2)
  arms = jnp.zeros(len(config.agents[name].arms))
  compiled.clear()
  groups = [device_shards.DeviceShards(shard, devices) for devices in (
      jax.local_devices(), jax.local_devices()[:1])]
  # Eight shards fill the devices, five do not.
  for count in (8, 5):
    ids = [lifetime.ShardId(*map(np.int32, (0, i, 2 * i, 2 * count)))
           for i in range(count)]
    results = {}
    for shards in groups:
      size = len(shards)
      states = [shard.empty()] * count
      gradients = []
      for step in range(2):
        out = []
        for first in range(0, count, size):
          part = slice(first, first + size)
          out += shards.advance(eta, arms, states[part], ids[part],
                                [step] * len(ids[part]))
        states = [state for _, state, _ in out]
        gradients.append([gradient for gradient, _, _ in out])
        if size > 1:
          for i, state in enumerate(states):
            assert {state.age.device} == {jax.local_devices()[i]}
      results[size] = jax.tree_util.tree_map(
          np.asarray, (gradients, states, [m for _, _, m in out]))
    one, many = map(jax.tree_util.tree_leaves, (results[1], results[8]))
    for a, b in zip(one, many):
      np.testing.assert_array_equal(a, b)
    gradients = np.asarray(results[1][0])
    assert np.ptp(gradients, axis=1).max() > 0, 'all shards are the same'
  assert len(compiled) == 1, compiled
print('equal')
'''


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 5), reason='with JAX 0.12 the last bit of a few'
    ' numbers differs; only the pinned JAX promises equal bits')
@pytest.mark.parametrize('limit', [
    '0', pytest.param('0.001', marks=pytest.mark.long)])
def test_eight_devices_give_the_results_of_one(limit):
  environment = {
      **os.environ, 'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': str(_ROOT),
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={_DEVICES}'}
  done = subprocess.run([sys.executable, '-c', _SCRIPT, limit], env=environment,
                        capture_output=True, text=True, timeout=600,
                        check=False)
  assert done.returncode == 0 and 'equal' in done.stdout, done.stderr
  assert jax.local_device_count() == 1, 'this process must have one device'
