"""Sampling is exact, and returns are those of whole episodes."""

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.core import rollout
from lpg_distributed.envs import suite


def test_inverse_cdf_is_exact():
  """Evenly spaced uniforms give each action its probability."""
  logits = jnp.array([0.3, -1e9, 1.2, -0.5])
  num = 100_000
  uniform = (jnp.arange(num) + 0.5) / num
  action = rollout.sample_action(
      jnp.broadcast_to(logits, (num, 4)), uniform,
      jnp.array([True, False, True, True]))
  frequency = np.bincount(np.asarray(action), minlength=4) / num
  weights = np.exp(np.array([0.3, -np.inf, 1.2, -0.5]))
  np.testing.assert_allclose(frequency, weights / weights.sum(), atol=3e-5)
  assert frequency[1] == 0.


def test_extreme_uniforms_never_give_masked_actions():
  mask = jnp.array([True, True, False])
  logits = jnp.array([[-30., 30., -1e9]] * 3)
  uniform = jnp.array([0., 0.5, 1. - 2. ** -24])
  np.testing.assert_array_equal(
      rollout.sample_action(logits, uniform, mask)[1:], [1, 1])
  only_first = jnp.array([True, False, False])
  np.testing.assert_array_equal(
      rollout.sample_action(jnp.array([[0., -1e9, -1e9]] * 3), uniform,
                            only_first), [0, 0, 0])


def test_returns_against_a_plain_loop():
  environment = suite.load('chain_short_noisy')
  params = environment.init_params(jax.random.PRNGKey(0))
  num_envs, num_steps = 5, 90
  state, observation = jax.vmap(environment.reset_midway, (None, 0))(
      params, jax.random.split(jax.random.PRNGKey(1), num_envs))
  trajectory, _, returns = rollout.rollout(
      environment, lambda obs: jnp.zeros(obs.shape + (2,)), params, state,
      observation, rollout.init_returns(num_envs), jax.random.PRNGKey(2),
      num_steps)
  reward, discount = map(np.asarray, (trajectory.reward, trajectory.discount_t))
  for env in range(num_envs):
    episodes, total = [], 0.
    for t in range(num_steps):
      total += reward[t, env]
      if discount[t, env] == 0.:
        episodes.append(total)
        total = 0.
    whole = episodes[1:]  # The first one began midway.
    assert len(whole) >= 2
    np.testing.assert_allclose(returns.last[env], whole[-1], rtol=1e-5)
    np.testing.assert_allclose(returns.window_sum[env], sum(whole), rtol=1e-5,
                               atol=1e-5)
    assert returns.window_count[env] == len(whole)
    np.testing.assert_allclose(returns.running[env], total, rtol=1e-5,
                               atol=1e-5)
  np.testing.assert_allclose(rollout.final_return(returns),
                             np.mean(returns.last), rtol=1e-6)
