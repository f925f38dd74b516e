"""A2C on training environments: its update by hand, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

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


def test_grid():
  pairs = baselines.grid(config_lib.AGENTS['tabular_dense'])
  assert {rate for rate, _ in pairs} == {20., 40., 80., 160., 320., 640.}
  assert {cost for _, cost in pairs} == {0., 0.01, 0.02, 0.05}
  assert len(pairs) == len(set(pairs)) == 24


def test_one_update_by_hand():
  """Ascent on log pi * A + cost * H; the critic's advantage as a constant."""
  kind = lifetime.make_kind(CONFIG, NAME)
  rates, costs = np.array([5., 40., 40.]), np.array([0.1, 0., 0.2])
  hyper = baselines.hyper_params(
      jnp.asarray(np.stack([rates, costs], axis=1), jnp.float32), 0.9)
  keys = jax.random.split(jax.random.PRNGKey(0))
  task, progress = train_agents.init_lifetimes(CONFIG, NAME, kind, keys, L,
                                               jnp.zeros(9), hyper)
  rng = np.random.default_rng(0)
  theta = rng.normal(size=progress.theta.shape).astype(np.float32)
  values = rng.normal(size=progress.value.params.shape).astype(np.float32)
  progress = progress._replace(
      theta=jnp.asarray(theta),
      value=progress.value._replace(params=jnp.asarray(values)))
  after, _ = jax.jit(baselines.a2c(CONFIG, kind).update)(task, progress)
  t = jax.device_get(progress.trajectory)
  for i in range(L):
    table = theta[i, :, :2].astype(np.float64)
    pi = np.exp(table) / np.exp(table).sum(axis=-1, keepdims=True)
    value = values[i, :, 0].astype(np.float64)[t.observation[:, i]]
    target = value[T]
    ascent = np.zeros_like(table)
    for step in reversed(range(T)):
      target = t.reward[step, i] + 0.9 * t.discount_t[step, i] * (
          0.05 * value[step + 1] + 0.95 * target)
      for b in range(B):
        s, a = t.observation[step, i, b], t.action[step, i, b]
        advantage = target[b] - value[step, b]
        entropy = -np.sum(pi[s] * np.log(pi[s]))
        ascent[s] += (np.eye(2)[a] - pi[s]) * advantage
        ascent[s] -= costs[i] * pi[s] * (np.log(pi[s]) + entropy)
    expected = table + rates[i] * ascent / (T * B)
    np.testing.assert_allclose(after.theta[i, :, :2], expected, rtol=1e-3,
                               atol=1e-4)
  # Predictions are none of its business; the critic has learned.
  np.testing.assert_array_equal(after.theta[..., 2:], theta[..., 2:])
  assert np.any(after.value.params != values)


def test_it_learns_and_each_pair_is_its_own():
  pairs = np.array([[1e-6, 0.], [80., 0.], [80., 0.]])
  lives = jax.jit(lambda pairs: baselines.train_a2c(
      CONFIG, NAME, jax.random.PRNGKey(3), pairs))(pairs)
  assert lives.final_return.shape == (3,)
  assert train_agents.num_updates(CONFIG, NAME) == len(lives.episode_return)
  np.testing.assert_allclose(lives.hyper.alpha_lr, pairs[:, 0])
  assert abs(lives.final_return[0]) < 0.7
  assert np.all(lives.final_return[1:] > 0.8)
