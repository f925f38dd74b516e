"""Agents under a given rule: the same updates as in meta-training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.envs import suite

ENVIRONMENT = 'chain_short'
L, B, T = 4, 3, 6
CONFIG = config_lib.Config(
    environments=(ENVIRONMENT,),
    agents={ENVIRONMENT: dataclasses.replace(
        config_lib.AGENTS[ENVIRONMENT], lifetime_env_steps=2 * 2 * B * T)},
    rule=config_lib.RuleConfig(num_predictions=4, embedding_size=3,
                               lstm_size=3),
    meta=config_lib.MetaConfig(num_lifetimes=L, num_envs=B,
                               trajectory_steps=T, num_updates=2))
ARMS = np.zeros(9, np.float32)
KEY = jax.random.PRNGKey(5)


@functools.lru_cache(None)
def compiled(updates=None, kl_cost=None):
  return jax.jit(lambda eta, arms: train_agents.train_agents(
      CONFIG, ENVIRONMENT, eta, KEY, L, arms, updates, kl_cost))


@pytest.fixture(scope='module')
def eta():
  rule = rule_vector.unravel(CONFIG.rule, 3. * meta_update.init(CONFIG).eta)
  hidden = rule['lpg/phi/~/linear_0']
  # Keeps phi's few ReLU units active, whatever their weights.
  hidden['b'] = jnp.max(jnp.abs(hidden['w']), axis=0)
  return rule_vector.ravel(rule)


@pytest.fixture(scope='module')
def whole_lifetime(eta):
  return jax.device_get(compiled()(eta, ARMS))


def test_agents_are_trained_for_a_whole_lifetime(whole_lifetime):
  assert train_agents.num_updates(CONFIG, ENVIRONMENT) == 4
  assert whole_lifetime.episode_return.shape == (4, L)
  assert whole_lifetime.num_episodes.shape == (4, L)
  assert whole_lifetime.input_means['phi'].shape == (4, L)
  assert whole_lifetime.final_return.shape == (L,)
  assert np.all(whole_lifetime.num_episodes <= B * 2)
  assert not whole_lifetime.episode_return[
      whole_lifetime.num_episodes == 0].any()
  # A chain's last reward is +1 or -1, and there is no other.
  assert np.all(np.abs(whole_lifetime.episode_return) <= 1.)


def test_training_is_reproducible(eta, whole_lifetime):
  again = jax.device_get(compiled()(eta, ARMS))
  jax.tree_util.tree_map(np.testing.assert_array_equal, again, whole_lifetime)


def test_arms_are_drawn_from_the_bandit(eta, whole_lifetime):
  assert len(set(whole_lifetime.hyper.arm)) > 1
  arms = np.full(9, -np.inf, np.float32)
  arms[4] = 0.
  lifetimes = compiled()(eta, arms)
  np.testing.assert_array_equal(lifetimes.hyper.arm, [4] * L)
  np.testing.assert_array_equal(lifetimes.hyper.learning_rate, [40.] * L)


@pytest.mark.pinned
def test_without_kl_cost_predictions_do_not_change(eta, whole_lifetime):
  """Both begin with the same agents; only pi is trained."""
  lifetimes = compiled(kl_cost=0.)(eta, ARMS)
  kind = lifetime.make_kind(CONFIG, ENVIRONMENT)
  keys = jax.random.split(jax.random.split(KEY, 3)[0], L)
  _, progress = jax.jit(jax.vmap(
      lambda key: lifetime.init_lifetime(CONFIG, ENVIRONMENT, kind, key, ARMS),
      out_axes=lifetime.INIT_AXES))(keys)
  initial, theta = np.asarray(progress.theta), np.asarray(lifetimes.theta)
  np.testing.assert_array_equal(theta[..., 2:], initial[..., 2:])
  assert np.any(theta[..., :2] != 0.)
  assert np.any(whole_lifetime.theta[..., 2:] != initial[..., 2:])
  np.testing.assert_array_equal(lifetimes.hyper.arm, whole_lifetime.hyper.arm)
  np.testing.assert_array_equal(lifetimes.hyper.kl_cost, [0.] * L)


def test_one_update_is_eq_2_on_the_first_trajectory(eta):
  """Rebuilds new agents and first trajectories from the key; updates once."""
  lifetimes = compiled(updates=1)(eta, ARMS)
  kind = lifetime.make_kind(CONFIG, ENVIRONMENT)
  init_key, first_key, _ = jax.random.split(KEY, 3)
  rule = rule_vector.unravel(CONFIG.rule, eta)

  def rebuild(init_keys, first_keys):
    task, progress = jax.vmap(
        lambda key: lifetime.init_lifetime(
            CONFIG, ENVIRONMENT, kind, key, ARMS),
        out_axes=lifetime.INIT_AXES)(init_keys)
    progress = meta_gradient.collect(kind, CONFIG.meta, task, progress,
                                     first_keys)
    theta, _, _ = meta_gradient.update_agents(
        kind, CONFIG, rule, progress.theta, progress.opt_state,
        progress.trajectory, task)
    y_logits = jnp.stack([
        progress.theta[i][progress.trajectory.observation[:-1, i]][..., 2:]
        for i in range(L)])
    phi = lpg_network.embed(rule, jax.nn.softmax(y_logits))
    return theta, jnp.mean(phi, axis=(1, 2))

  theta, phi = jax.jit(rebuild)(jax.random.split(init_key, L),
                                jax.random.split(first_key, L))
  np.testing.assert_allclose(lifetimes.theta, theta, rtol=1e-4, atol=1e-5)
  means = lifetimes.input_means
  np.testing.assert_allclose(means['phi'], [phi], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(means['action_probability'], [[0.5] * L],
                             rtol=1e-6)
  assert np.std(phi) > 0.


@pytest.mark.pinned
def test_agents_learn_by_a_handwritten_rule():
  """One LSTM unit adds up later rewards, and pi_hat reads it.

  So the chain's last reward reinforces its first action.
  """
  size = CONFIG.rule.lstm_size
  eta = jax.tree_util.tree_map(
      jnp.zeros_like, rule_vector.init(CONFIG.rule, KEY))
  w, b = eta['lpg/lstm/linear']['w'], eta['lpg/lstm/linear']['b']
  w = w.at[0, size].set(4.)  # g of the first unit: the reward
  w = w.at[0, 0].set(4.)
  b = b.at[2 * size].set(6.).at[3 * size].set(6.)  # opens the gates f and o
  eta = {**eta, 'lpg/lstm/linear': {'w': w, 'b': b},
         'lpg/pi_hat': {**eta['lpg/pi_hat'],
                        'w': eta['lpg/pi_hat']['w'].at[0, 0].set(1.)}}
  config = dataclasses.replace(CONFIG, meta=dataclasses.replace(
      CONFIG.meta, num_envs=16, trajectory_steps=40))
  arms = np.where(np.arange(9) == 0, 0., -np.inf).astype(np.float32)
  lifetimes = jax.jit(lambda eta: train_agents.train_agents(
      config, ENVIRONMENT, eta, KEY, L, arms, updates=150))(
          rule_vector.ravel(eta))
  assert suite.load(ENVIRONMENT).max_episode_steps < 40
  assert np.abs(lifetimes.episode_return[0]).mean() < 0.6
  assert np.mean(lifetimes.final_return) > 0.6
