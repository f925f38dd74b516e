"""The outer critic: values, advantages, hyperparameters, and stability."""

from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import critic as critic_lib

OUTER = config_lib.OuterConfig()
STATES = specs.DiscreteArray(3)
BITS = specs.BoundedArray((3,), np.uint8, 0, 1)
DENSE = config_lib.AgentConfig((), (16,), 'adam')


def make_trajectory(num_steps=12, batch=8, as_bits=False):
  """0 -> 1 -> 2 -> end, reward 1 at the end; environments out of phase."""
  phase = np.arange(batch)
  state = (np.arange(num_steps + 1)[:, None] + phase) % 3
  ended = state[:-1] == 2
  observation = np.eye(3, dtype=np.uint8)[state] if as_bits else state
  return types.Trajectory(
      jnp.asarray(observation), jnp.zeros(ended.shape, jnp.int32),
      jnp.asarray(ended, jnp.float32), jnp.asarray(~ended, jnp.float32))


@pytest.mark.parametrize('agent, spec, updates', [
    (config_lib.AgentConfig(), STATES, 60), (DENSE, BITS, 1500)])
def test_learns_the_discounted_values(agent, spec, updates):
  critic = critic_lib.make_critic(agent, spec, OUTER)
  trajectory = make_trajectory(as_bits=not agent.is_table)
  state = critic.init(jax.random.PRNGKey(0))
  update = jax.jit(critic.update)
  _, first = update(state, trajectory, 0.9)
  for _ in range(updates):
    state, advantage = update(state, trajectory, 0.9)
  # V = [0.81, 0.9, 1]; where V is right, advantages are zero.
  assert np.abs(first).max() > 0.5
  np.testing.assert_allclose(advantage, 0., atol=0.02)


def test_lambda_returns_by_hand():
  trajectory = types.Trajectory(
      jnp.zeros((4, 1), jnp.int32), jnp.zeros((3, 1), jnp.int32),
      jnp.array([[1.], [2.], [4.]]), jnp.array([[1.], [0.], [1.]]))
  values = jnp.array([[10.], [20.], [30.], [40.]])
  # From the back: 4 + .5*40; 2 + 0; 1 + .5*(.2*20 + .8*2).
  np.testing.assert_allclose(
      critic_lib.lambda_returns(trajectory, values, 0.5, 0.8),
      [[3.8], [2.], [24.]], rtol=1e-6)


def test_many_visits_of_one_state_do_not_diverge():
  """Steps of 0.3 summed over 512 visits would diverge; their mean does not."""
  critic = critic_lib.make_critic(
      config_lib.AgentConfig(), specs.DiscreteArray(1), OUTER)
  shape = (8, 64)
  trajectory = types.Trajectory(
      jnp.zeros((9, 64), jnp.int32), jnp.zeros(shape, jnp.int32),
      jnp.ones(shape), jnp.full(shape, 0.))
  state = critic.init(jax.random.PRNGKey(0))
  update = jax.jit(critic.update)
  for step in range(5):
    state, advantage = update(state, trajectory, 0.9)
    # Each update goes 0.3 of the way from V to 1.
    np.testing.assert_allclose(advantage, 0.7 ** step, rtol=1e-4)


def test_values_of_unvisited_states_do_not_change():
  critic = critic_lib.make_critic(
      config_lib.AgentConfig(), specs.DiscreteArray(5), OUTER)
  state, _ = critic.update(critic.init(jax.random.PRNGKey(0)),
                           make_trajectory(), 0.9)
  assert np.all(state.params[:3] > 0) and not np.any(state.params[3:])


def test_advantages_are_scaled_by_their_root_mean_square():
  config = config_lib.OuterConfig(advantage_ema_decay=0.9)
  critic = critic_lib.make_critic(
      config_lib.AgentConfig(), STATES, config)
  plain = critic_lib.make_critic(
      config_lib.AgentConfig(), STATES, OUTER)
  trajectory = make_trajectory()
  trajectory = trajectory._replace(reward=trajectory.reward * 100.)
  key = jax.random.PRNGKey(0)
  _, advantage = critic.update(critic.init(key), trajectory, 0.9)
  _, unscaled = plain.update(plain.init(key), trajectory, 0.9)
  np.testing.assert_allclose(
      advantage, unscaled / np.sqrt(np.mean(np.square(unscaled))), rtol=1e-3)


@pytest.mark.parametrize('agent, spec, rate', [
    (config_lib.AgentConfig(), STATES, 'table_learning_rate'),
    (DENSE, BITS, 'network_learning_rate')])
def test_hyperparameters_given_to_update_override_the_configuration(
    agent, spec, rate):
  """Arguments act as the same values in the configuration."""
  other = config_lib.OuterConfig(td_lambda=0.4, **{rate: 0.07})
  trajectory = make_trajectory(as_bits=not agent.is_table)
  critic = critic_lib.make_critic(agent, spec, OUTER)
  state = critic.init(jax.random.PRNGKey(0))
  given, advantage = jax.jit(critic.update)(state, trajectory, 0.9, 0.4, 0.07)
  wanted, wanted_advantage = jax.jit(critic_lib.make_critic(
      agent, spec, other).update)(state, trajectory, 0.9)
  plain, _ = jax.jit(critic.update)(state, trajectory, 0.9)
  np.testing.assert_allclose(advantage, wanted_advantage, rtol=1e-5, atol=1e-6)
  for found, same, others in zip(*map(jax.tree_util.tree_leaves, (
      given.params, wanted.params, plain.params))):
    np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-6)
    assert np.any(found != others)
