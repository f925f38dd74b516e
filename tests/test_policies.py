"""Policies of `train_agents` and of meta-testing act as the agents did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import errors

_JAX = 'module/tests.meta_testing.session_testing:chain'
_HOST = 'module/tests.meta_testing.session_testing:Corridor'


@pytest.fixture(scope='module', name='agents')
def _agents():
  rule = lpg.load_rule('all_kinds_pi')
  return lpg.train_agents(rule, 'tabular_dense', learning_rate=320., kl_cost=1.,
                          num_agents=3, num_envs=16, updates=60)


def mean_reward(policy, num_envs=64, num_steps=100):
  """Of the policy in the layout that its agent learned."""
  environment = lpg.load_environment(policy.form.environment)
  reset = jax.vmap(environment.reset, in_axes=(None, 0))
  step = jax.vmap(environment.step, in_axes=(None, 0, 0, 0))
  keys = lambda i: jax.random.split(jax.random.PRNGKey(i), num_envs)

  @jax.jit
  def play():
    def advance(carry, key):
      state, observation = carry
      action = policy(observation, key)
      state, timestep = step(policy.env_params, state, action,
                             jax.random.split(key, num_envs))
      return (state, timestep.observation), timestep.reward

    return jnp.mean(jax.lax.scan(
        advance, reset(policy.env_params, keys(0)),
        jax.random.split(jax.random.PRNGKey(1), num_steps))[1])

  return float(play())


def test_agents_act_in_their_layouts(agents, tmp_path):
  path = str(tmp_path / 'policy.npz')
  policies = [lpg.make_policy(agents, 'tabular_dense', i) for i in range(3)]
  for i, policy in enumerate(policies):
    np.testing.assert_array_equal(policy.theta, agents.theta[i])
    lpg.save_policy(path, policy, final_return=float(agents.final_return[i]))
    loaded = lpg.load_policy(path)
    assert isinstance(loaded, lpg.Policy)
    # They have learned: a random agent has about 0 in an episode of 500 steps.
    assert mean_reward(loaded) > 0.5 * loaded.info['final_return'] / 500. > 0.
    np.testing.assert_array_equal(loaded.action_mask, policy.action_mask)
  # With 9 actions, or with 18: the mask is that of the agent's layout.
  assert [int(p.action_mask.sum()) for p in policies] == [
      18 if collects else 9 for collects in agents.env_params.collects_by_action
  ]
  # In the layout of another agent a policy is worth less.
  other = lpg.make_policy(agents, 'tabular_dense')
  own = mean_reward(other)
  other.env_params = policies[0].env_params._replace(
      object_cells=(policies[0].env_params.object_cells + 60) % 121)
  assert mean_reward(other) < own


@pytest.mark.parametrize('environment', ['chain_short', 'random_small',
                                         'chain_state_distraction'])
def test_agents_of_another_environment_are_refused(agents, environment):
  with pytest.raises(errors.UserError, match='did not learn in') as info:
    lpg.make_policy(agents, environment)
  assert '\n' not in str(info.value)


def test_arguments_are_checked(agents):
  with pytest.raises(errors.UserError, match='index is 3'):
    lpg.make_policy(agents, 'tabular_dense', 3)
  with pytest.raises(ValueError, match='did you mean tabular_dense'):
    lpg.make_policy(agents, 'tabular_dens')


def test_agents_with_networks(tmp_path):
  config = config_lib.RuleConfig(num_predictions=3, lstm_size=4)
  agents = lpg.train_agents(
      lpg.create_rule(config=config), 'chain_state_distraction',
      learning_rate=0.001,
      kl_cost=0.5, num_agents=2, num_envs=2, updates=1)
  policy = lpg.make_policy(agents, 'chain_state_distraction', 1)
  path = str(tmp_path / 'policy.npz')
  lpg.save_policy(path, policy)
  observation = np.random.default_rng(0).integers(
      0, 2, (5, *policy.form.observation_spec.shape))
  np.testing.assert_array_equal(lpg.load_policy(path).logits(observation),
                                policy.logits(observation))
  assert np.isfinite(mean_reward(policy, 2, 3))


@pytest.mark.parametrize('environment, num_actions', [(_JAX, 2), (_HOST, 2)])
def test_meta_tests_keep_their_agents(tmp_path, environment, num_actions):
  directory = str(tmp_path / 'job')
  agents = lpg.meta_test('a2c', environment, seeds=(3, 4), env_steps=2000,
                         num_envs=4, directory=directory, learning_rate=0.01)
  first, second = (lpg.load_policy(directory, seed) for seed in (None, 4))
  assert list(agents.policies) == [3, 4]
  assert first.info == {'rule': 'a2c', 'seed': 3}
  assert second.info['seed'] == 4
  spec = first.form.observation_spec
  observation = (np.arange(spec.num_values) if environment == _JAX
                 else np.eye(5, dtype=np.float32)[..., None])
  found = first.probabilities(observation)
  assert found.shape == (len(observation), num_actions)
  assert np.any(found != second.probabilities(observation))
  np.testing.assert_array_equal(
      found, agents.policies[3].probabilities(observation))
  if environment == _HOST:  # It goes to the right, where the prize is.
    assert np.all(first(observation)[:4] == 1)
  with pytest.raises(errors.UserError, match='seed 5; allowed: 3, 4'):
    lpg.load_policy(directory, 5)


def test_agents_that_diverged_have_no_policy(tmp_path):
  agents = lpg.meta_test('a2c', _JAX, env_steps=200, num_envs=2,
                         directory=str(tmp_path), learning_rate=1e30)
  assert not agents.policies


def test_places_without_policies(tmp_path):
  with pytest.raises(errors.UserError, match='has no trained agent'):
    lpg.load_policy(str(tmp_path))
  with pytest.raises(errors.UserError, match='no file'):
    lpg.load_policy(str(tmp_path / 'policy.npz'))
  with pytest.raises(errors.UserError, match='allowed: no seed'):
    lpg.load_policy(str(tmp_path / 'policy.npz'), 0)
