"""Shifted and scaled rewards: their draws, trajectories and metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import lifetime
from lpg_distributed.core import meta_update
from lpg_distributed.core import reward_transform
from tests.core import test_lifetime

KEYS = jax.random.split(jax.random.PRNGKey(0), 4000)
META = config_lib.MetaConfig(
    num_envs=2, trajectory_steps=4, num_updates=2, reward_shift_share=0.25,
    reward_shift_range=(-0.2, 0.6), reward_scale_limit=3.)


def test_nothing_is_drawn_by_default():
  assert reward_transform.draw(KEYS, config_lib.MetaConfig()) is None
  reward = jnp.ones((4, 3, 2))
  assert reward_transform.apply(None, reward) is reward


def test_draws_have_the_distribution_that_is_configured():
  shift, scale = map(np.asarray, reward_transform.draw(KEYS, META))
  shifted = shift != 0.
  # Of 4,000 Bernoulli draws, 5 standard deviations.
  assert abs(shifted.mean() - 0.25) < 5. * (0.25 * 0.75 / 4000) ** 0.5
  assert shift.min() >= -0.2 and shift.max() < 0.6
  assert abs(shift[shifted].mean() - 0.2) < 5. * 0.8 / 12 ** 0.5 / 1000 ** 0.5
  log = np.log(scale) / np.log(3.)
  assert np.abs(log).max() <= 1. and abs(log.mean()) < 5. / 12000 ** 0.5
  assert abs(np.corrcoef(shift[shifted], log[shifted])[0, 1]) < 0.16


def test_shift_and_scale_can_be_drawn_alone():
  shift, scale = reward_transform.draw(KEYS[:50], dataclasses.replace(
      META, reward_shift_share=0.))
  assert not np.any(shift) and np.ptp(scale) > 0.5
  shift, scale = reward_transform.draw(KEYS[:50], dataclasses.replace(
      META, reward_scale_limit=1.))
  assert np.any(shift) and np.all(np.asarray(scale) == 1.)


def test_rewards_by_hand():
  transform = reward_transform.RewardTransform(
      jnp.array([0., 0.5]), jnp.array([2., 3.]))
  reward = jnp.arange(8.).reshape(2, 2, 2)  # [T, L, B]
  np.testing.assert_allclose(
      reward_transform.apply(transform, reward),
      [[[0., 2.], [7.5, 10.5]], [[8., 10.], [19.5, 22.5]]])


def make_config(**changes):
  agents = {name: dataclasses.replace(agent, lifetime_env_steps=10_000)
            for name, agent in config_lib.AGENTS.items()}
  return config_lib.Config(
      environments=('chain_short',), agents=agents,
      rule=config_lib.RuleConfig(num_predictions=4, embedding_size=2,
                                 lstm_size=3),
      meta=dataclasses.replace(META, num_lifetimes=2, **changes))


def run_one_window(share, shift_range, limit):
  """A shard after one window: (gradient, state, metrics)."""
  config = make_config(reward_shift_share=share, reward_scale_limit=limit,
                       reward_shift_range=shift_range)
  shard = lifetime.make_shard(config, 'chain_short', 2)
  eta = meta_update.init(config).eta
  arms = len(config.agents['chain_short'].arms)
  identity = lifetime.ShardId(0, 0, 0, 2)
  return jax.jit(shard.advance)(
      eta, jnp.zeros(arms) - jnp.log(arms), shard.empty(), identity, 0)


def test_agents_see_the_changed_rewards_and_metrics_do_not(monkeypatch):
  """A constant shift of all rewards changes trajectories, but no returns."""
  with monkeypatch.context() as context:  # Agents as they begin are enough.
    context.setattr(lifetime, '_window_gradients',
                    test_lifetime.leave_out_windows)
    _, plain, plain_metrics = run_one_window(0., (-0.2, 0.6), 1.)
  # The range is narrow, so that the shift is known to within 1e-6.
  gradient, shifted, metrics = run_one_window(1., (0.5, 0.500001), 1.)
  assert plain.task.rewards is None
  assert np.isfinite(gradient).all() and np.any(gradient)
  np.testing.assert_allclose(shifted.task.rewards.shift, 0.5, atol=1e-5)
  rewards = np.asarray(shifted.progress.trajectory.reward)
  # Rewards of the chain are 0, 1 and -1.
  assert np.isin(np.round(rewards - 0.5, 4), (0., 1., -1.)).all()
  assert np.isin(np.asarray(plain.progress.trajectory.reward),
                 (0., 1., -1.)).all()
  # Both begin with the same agents in the same chains.
  for name in ('window_return_sum', 'window_episodes'):
    values = np.asarray(getattr(metrics, name))
    assert np.isin(values, np.arange(-100, 101)).all()
  assert (plain_metrics.arm == metrics.arm).all()


@pytest.mark.parametrize('change, message', [
    ({'reward_shift_share': 1.5}, 'meta.reward_shift_share is 1.5'),
    ({'reward_scale_limit': 0.5}, 'meta.reward_scale_limit is 0.5'),
    ({'reward_shift_range': (0.6, -0.2)}, 'meta.reward_shift_range'),
    ({'reward_shift_range': (0.6,)}, 'meta.reward_shift_range'),
])
def test_a_bad_value_is_refused_in_one_line(change, message):
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    config_lib.MetaConfig(**change)
  assert '\n' not in str(error.value)
