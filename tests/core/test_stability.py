"""A thousand unstable meta-steps: all numbers stay finite.

Eta is random and has a high learning rate. Agents have the largest learning
rate of Table 3. Policies collapse, and lifetimes start anew all the time.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import lifetime
from lpg_distributed.core import meta_update

META_STEPS = 1000
L = 2


def make_config(environment, rate):
  agent = dataclasses.replace(
      config_lib.AGENTS[environment], learning_rates=(rate,),
      lifetime_env_steps=5 * 2 * 3 * 2)  # windows * K * T * B
  return config_lib.Config(
      environments=(environment,), agents={environment: agent},
      rule=config_lib.RuleConfig(num_predictions=6, embedding_size=4,
                                 lstm_size=8),
      meta=config_lib.MetaConfig(
          learning_rate=0.03, num_lifetimes=L, num_envs=2, trajectory_steps=3,
          num_updates=2, y_table_stddev=1.))


@pytest.mark.parametrize('environment, rate', [
    ('chain_short', 80.),
    pytest.param('tabular_sparse', 80., marks=pytest.mark.pinned),
    pytest.param('chain_state_distraction', 0.01, marks=pytest.mark.pinned)])
def test_eta_stays_finite_and_broken_lifetimes_start_anew(environment, rate):
  config = make_config(environment, rate)
  assert rate == max(config_lib.AGENTS[environment].learning_rates)
  shard = lifetime.make_shard(config, environment, L)
  arms = jnp.zeros(len(config.agents[environment].arms))
  ids = lifetime.ShardId(*map(np.int32, (3, 0, 0, L)))

  def step(carry, meta_step):
    meta, state = carry
    gradient, state, metrics = shard.advance(
        meta.eta, arms, state, ids, meta_step)
    meta, norm = meta_update.apply(config.meta, meta, gradient,
                                   jnp.float32(L))
    finite = jnp.array([jnp.all(jnp.isfinite(x)) for x in (
        meta.eta, norm, metrics.loss, metrics.final_return)])
    return (meta, state), (finite, metrics)

  begin = meta_update.init(config)
  begin = begin._replace(eta=10. * begin.eta)
  (meta, _), (finite, metrics) = jax.jit(lambda carry: jax.lax.scan(
      step, carry, jnp.arange(META_STEPS)))((begin, shard.empty()))
  assert np.all(finite), np.argwhere(~np.asarray(finite))[0]
  assert np.linalg.norm(meta.eta - begin.eta) > 1.
  # Lifetimes start anew all the time; some collapse, but none for good.
  ended = np.asarray(metrics.ended)
  assert np.all(ended.sum(axis=0) >= META_STEPS // 5)
  assert np.all(ended[-10:].any(axis=0))
  assert np.asarray(metrics.age).max() <= 5
  healthy = ~np.asarray(metrics.collapsed | metrics.not_finite)
  assert healthy.mean() > 0.2
  assert not np.asarray(metrics.gradient_not_finite).any()
