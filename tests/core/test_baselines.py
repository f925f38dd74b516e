"""A2C on training environments: one update by hand, and learning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import baselines
from lpg_distributed.core import lifetime
from lpg_distributed.core import train_agents

NAME = 'chain_short'
L, B, T = 3, 16, 10
CONFIG = config_lib.Config(
    environments=(NAME,),
    agents={NAME: dataclasses.replace(
        config_lib.AGENTS[NAME], lifetime_env_steps=100 * B * T)},
    meta=config_lib.MetaConfig(num_lifetimes=L, num_envs=B,
                               trajectory_steps=T, num_updates=1))


HYPER = baselines.A2CHyperparameters(
    learning_rate=[5., 40., 40.], entropy_cost=[0.1, 0., 0.2],
    critic_rate=[0.3, 0.1, 1.], td_lambda=[0.95, 0.5, 0.],
    gamma=[0.9, 0.995, 0.5])


@pytest.mark.parametrize('decay', [
    pytest.param(0., marks=pytest.mark.pinned), 0.9])
def test_one_update_by_hand(decay):
  """Ascent on log pi * A + cost * H, with hyperparameters per agent.

  The advantage is a constant and comes from the critic before its update. The
  first running mean square is that of these advantages, so the scale is their
  root mean square.
  """
  config = dataclasses.replace(CONFIG, outer=config_lib.OuterConfig(
      advantage_ema_decay=decay))
  kind = lifetime.make_kind(config, NAME)
  hyper = baselines.hyper_params(HYPER)
  keys = jax.random.split(jax.random.PRNGKey(0))
  task, progress = train_agents.init_lifetimes(config, NAME, kind, keys, L,
                                     jnp.zeros(9), hyper)
  rng = np.random.default_rng(0)
  theta = rng.normal(size=progress.theta.shape).astype(np.float32)
  values = rng.normal(size=progress.value.params.shape).astype(np.float32)
  progress = progress._replace(
      theta=jnp.asarray(theta),
      value=progress.value._replace(params=jnp.asarray(values)))
  after, _ = jax.jit(baselines.a2c(config, kind).update)(task, progress)
  t = jax.device_get(progress.trajectory)
  for i in range(L):
    rate, cost, critic_rate, td_lambda, gamma = (x[i] for x in HYPER)
    table = theta[i, :, :2].astype(np.float64)
    pi = np.exp(table) / np.exp(table).sum(axis=-1, keepdims=True)
    states = t.observation[:, i]
    value = values[i, :, 0].astype(np.float64)[states]
    target, advantage = value[T], np.zeros((T, B))
    for step in reversed(range(T)):
      target = t.reward[step, i] + gamma * t.discount_t[step, i] * (
          (1. - td_lambda) * value[step + 1] + td_lambda * target)
      advantage[step] = target - value[step]
    new_values = values[i, :, 0].astype(np.float64)
    for s in np.unique(states[:-1]):
      new_values[s] += critic_rate * advantage[states[:-1] == s].mean()
    np.testing.assert_allclose(after.value.params[i, :, 0], new_values,
                               rtol=1e-4, atol=1e-5)
    if decay:
      advantage /= np.sqrt(np.square(advantage).mean()) + 1e-4
    ascent = np.zeros_like(table)
    for step in range(T):
      for b in range(B):
        s, a = states[step, b], t.action[step, i, b]
        entropy = -np.sum(pi[s] * np.log(pi[s]))
        ascent[s] += (np.eye(2)[a] - pi[s]) * advantage[step, b]
        ascent[s] -= cost * pi[s] * (np.log(pi[s]) + entropy)
    expected = table + rate * ascent / (T * B)
    np.testing.assert_allclose(after.theta[i, :, :2], expected, rtol=1e-3,
                               atol=1e-4)
  # A2C does not change predictions.
  np.testing.assert_array_equal(after.theta[..., 2:], theta[..., 2:])


def test_a2c_learns_with_hyperparameters_per_agent():
  hyper = baselines.A2CHyperparameters(
      np.array([1e-6, 80., 80.]), np.zeros(3), np.full(3, 0.3),
      np.full(3, 0.95), np.full(3, 0.995))
  lifetimes = jax.jit(lambda hyper: baselines.train_a2c(
      CONFIG, NAME, jax.random.PRNGKey(3), hyper))(hyper)
  assert lifetimes.final_return.shape == (3,)
  assert train_agents.num_updates(CONFIG, NAME) == len(lifetimes.episode_return)
  np.testing.assert_allclose(lifetimes.hyper.learning_rate, hyper.learning_rate)
  assert abs(lifetimes.final_return[0]) < 0.7
  assert np.all(lifetimes.final_return[1:] > 0.8)
