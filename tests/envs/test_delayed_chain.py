"""Delayed chains against Appendix A.3, by enumeration or sampling."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.envs import delayed_chain
from lpg_distributed.envs import suite
from tests.envs import env_testing

NUM = env_testing.NUM
PLAIN, NOISY = 'chain_short', 'chain_short_noisy'
BITS = 'chain_state_distraction'


def make(name, length):
  return suite.load(name), delayed_chain.ChainParams(jnp.asarray(length))


def step(name, length, states, actions, seed=0):
  """`states` are rows of (time, right action, whether the first was right)."""
  environment, params = make(name, length)
  return env_testing.step_each(environment, params,
                               np.transpose(np.array(states)), actions, seed)


def episode_rewards(name, length, seed):
  """Rewards, states and observations of episodes, half with a_0 right."""
  environment, params = make(name, length)
  state, observation = env_testing.run(environment, 'reset', params, seed=seed)
  rewards, states, observations = [], [state], [observation]
  for t in range(length):
    actions = np.arange(NUM, dtype=np.int32) // (1 + t) % 2
    state, timestep = env_testing.run(environment, 'step', params, state,
                                      actions, seed=seed + t + 1)
    assert (timestep.discount == (0 if t == length - 1 else 1)).all()
    rewards.append(timestep.reward)
    states.append(state)
    observations.append(timestep.observation)
  return np.array(rewards), states, np.array(observations)


@pytest.mark.parametrize('name', env_testing.CHAINS)
def test_length_is_uniform_including_both_ends(name):
  length = env_testing.run(suite.load(name), 'init_params').length
  shortest, longest, _ = env_testing.CHAIN_TABLES[name]
  assert length.min() == shortest and length.max() == longest
  env_testing.check_uniform(length, range(shortest, longest + 1))


@pytest.mark.parametrize('name', [PLAIN, 'chain_long_noisy'])
@pytest.mark.parametrize('length', [5, 17, 30])
def test_states_have_distinct_indices(name, length):
  """An episode can have 4 * length - 2 states, and there are no others."""
  # From each time, in each of the four kinds of episode; (time, right, first).
  kinds = list(itertools.product(range(length), (0, 1), (0, 1)))
  before = [(time, right, int(time > 0 and first == right))
            for time, right, first in kinds]
  actions = [first if time == 0 else time % 2 for time, _, first in kinds]
  new, timestep = step(name, length, before, actions)
  indices = {}
  for i, (time, right, first) in enumerate(kinds):
    state = int(new.time[i]), int(new.right_action[i]), int(new.correct[i])
    if time < length - 1:
      assert timestep.discount[i] == 1
      assert state == (time + 1, right, int(first == right))
    else:
      assert timestep.discount[i] == 0 and state in ((0, 0, 0), (0, 1, 0))
      assert timestep.reward[i] == (1 if first == right else -1)
    index = int(timestep.observation[i])
    assert indices.setdefault(state, index) == index
  for state in ((0, 0, 0), (0, 1, 0)):  # If only one was drawn.
    indices.setdefault(state, state[1])
  assert len(indices) == 4 * length - 2
  assert sorted(indices.values()) == list(range(4 * length - 2))


def test_first_observations_show_the_right_action():
  environment, params = make(PLAIN, 9)
  state, observation = env_testing.run(environment, 'reset', params)
  np.testing.assert_array_equal(observation, state.right_action)
  assert not state.time.any() and not state.correct.any()


@pytest.mark.parametrize('name', [PLAIN, NOISY, BITS])
def test_right_action_is_drawn_per_episode(name):
  """Also after an episode, independently of that episode."""
  environment, params = make(name, 5)
  state, _ = env_testing.run(environment, 'reset', params)
  env_testing.check_chance(state.right_action.sum(), NUM, 0.5)
  for right, correct in itertools.product((0, 1), (0, 1)):
    new, _ = env_testing.step_many(environment, params, (4, right, correct), 0)
    env_testing.check_chance(new.right_action.sum(), NUM, 0.5)
    assert not new.time.any() and not new.correct.any()


@pytest.mark.parametrize('name', [PLAIN, BITS])
@pytest.mark.parametrize('length', [5, 8])
def test_the_last_reward_depends_on_the_first_action_only(name, length):
  rewards, states, _ = episode_rewards(name, length, 0)
  right = states[0].right_action == np.arange(NUM) % 2
  assert not rewards[:-1].any()
  np.testing.assert_array_equal(rewards[-1], np.where(right, 1, -1))
  for state in states[1:-1]:
    np.testing.assert_array_equal(state.correct, right)
    np.testing.assert_array_equal(state.right_action, states[0].right_action)


def test_noisy_rewards_are_independent_signs():
  """+1 or -1 on all steps but the first and the last, all independent."""
  length = 6
  rewards, states, _ = episode_rewards(NOISY, length, 10)
  right = states[0].right_action == np.arange(NUM) % 2
  assert not rewards[0].any()
  np.testing.assert_array_equal(rewards[-1], np.where(right, 1, -1))
  noise = rewards[1:-1]
  assert noise.shape == (4, NUM) and (np.abs(noise) == 1).all()
  signs = (noise > 0).astype(int)
  for row in signs:
    env_testing.check_chance(row.sum(), NUM, 0.5)
  # Uniform over four signs, which action was right, whether it was taken, and
  # what is right in the next episode.
  bits = np.stack([*signs, states[0].right_action, right,
                   states[-1].right_action]).astype(int)
  env_testing.check_uniform(2 ** np.arange(7) @ bits, range(2 ** 7))


def test_bits_show_the_right_and_the_first_action():
  """Bit 0: is a_0 right; bit 1: was the first action right; 20 of noise."""
  length = 5
  _, states, observations = episode_rewards(BITS, length, 20)
  assert observations.shape == (length + 1, NUM, 22)
  assert observations.max() == 1
  for state, observation in zip(states, observations):
    np.testing.assert_array_equal(observation[:, 0], state.right_action == 0)
    np.testing.assert_array_equal(observation[:, 1], state.correct)
  assert not observations[0, :, 1].any() and not observations[-1, :, 1].any()
  assert 0.4 < observations[1, :, 1].mean() < 0.6


def test_noise_bits_are_uniform_and_independent():
  """The bits of three states are uncorrelated."""
  _, states, observations = episode_rewards(BITS, 5, 30)
  noise = [observations[t, :, 2:] for t in (0, 1, 5)]  # 5: the next episode.
  relevant = np.stack([states[0].right_action, states[1].correct,
                       states[5].right_action], axis=1)
  bits = np.concatenate(noise + [relevant], axis=1).astype(float)
  for column in bits.T:
    env_testing.check_chance(column.sum(), NUM, 0.5)
  centred = 2. * bits - 1.
  correlation = centred.T @ centred / NUM - np.eye(bits.shape[1])
  # 1953 pairs; six standard deviations.
  assert np.abs(correlation).max() < 6. / np.sqrt(NUM)


@pytest.mark.parametrize('name', [PLAIN, BITS])
def test_reset_midway_draws_a_uniform_time(name):
  """The past is as if actions had been uniform."""
  length = 7
  environment, params = make(name, length)
  state, observation = env_testing.run(environment, 'reset_midway', params)
  env_testing.check_uniform(state.time, range(length))
  assert not state.correct[state.time == 0].any()
  later = state.time > 0
  env_testing.check_uniform((2 * state.right_action + state.correct)[later],
                            range(4))
  env_testing.check_chance(state.right_action.sum(), NUM, 0.5)
  if name == PLAIN:
    index = np.where(later, 4 * state.time - 2 + 2 * state.right_action
                     + state.correct, state.right_action)
    np.testing.assert_array_equal(observation, index)
  else:
    np.testing.assert_array_equal(
        observation[:, :2],
        np.stack([state.right_action == 0, state.correct == 1], axis=1))


def test_both_actions_are_allowed():
  environment, params = make(PLAIN, 5)
  np.testing.assert_array_equal(environment.action_mask(params), [True, True])
