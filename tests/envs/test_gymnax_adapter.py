"""Environments of gymnax as `base.Environment`, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.envs import gymnax_adapter

gymnax = pytest.importorskip('gymnax')

MINI = {  # Observation's shape, actions.
    'Catch-bsuite': ((10, 5), 3),
    'CartPole-v1': ((4,), 2),
    'DeepSea-bsuite': ((8, 8), 2),
    'UmbrellaChain-bsuite': ((3,), 2),
    'Asterix-MinAtar': ((10, 10, 4), 5),
    'Breakout-MinAtar': ((10, 10, 4), 3),
    'Freeway-MinAtar': ((10, 10, 7), 3),
    'SpaceInvaders-MinAtar': ((10, 10, 6), 4),
}

pytestmark = pytest.mark.filterwarnings('ignore')


def play(environment, num_steps, num_envs, seed=0):
  """Plays uniform actions under `jit`, `vmap` and `scan`."""
  num_actions = int(environment.action_spec().num_values)

  @jax.jit
  def run(key):
    params = environment.init_params(key)
    keys = jax.random.split(key, num_envs)
    carry = jax.vmap(environment.reset, (None, 0))(params, keys)

    def step(carry, key):
      state, observation = carry
      keys = jax.random.split(key, num_envs)
      action = jax.random.randint(key, (num_envs,), 0, num_actions)
      state, timestep = jax.vmap(environment.step, (None, 0, 0, 0))(
          params, state, action, keys)
      return (state, timestep.observation), (observation, action, timestep)

    return jax.lax.scan(step, carry, jax.random.split(key, num_steps))[1]

  return jax.tree_util.tree_map(np.asarray, run(jax.random.PRNGKey(seed)))


@pytest.mark.parametrize('name', MINI)
def test_specs_fit_the_observations_and_steps(name):
  environment = gymnax_adapter.load(name)
  shape, num_actions = MINI[name]
  spec = environment.observation_spec()
  assert spec.shape == shape
  assert environment.action_spec().num_values == num_actions
  observation, _, timestep = play(environment, 60, 3)
  for row in observation.reshape((-1,) + shape):
    spec.validate(row)
  assert timestep.reward.dtype == timestep.discount.dtype == np.float32
  assert set(np.unique(timestep.discount)) <= {0., 1.}
  assert environment.action_mask(environment.init_params(None)).all()


def test_catch_has_its_length_and_rewards():
  """Nine steps; +1 where the paddle is below the ball, else -1."""
  observation, action, timestep = play(
      gymnax_adapter.load('Catch-bsuite'), 90, 4)
  ends = timestep.discount == 0.
  np.testing.assert_array_equal(ends, (np.arange(90) % 9 == 8)[:, None]
                                & np.ones((1, 4), bool))
  assert np.all(timestep.reward[~ends] == 0.)
  for t, b in zip(*np.nonzero(ends)):
    ball = int(np.argmax(observation[t, b, 8]))
    paddle = int(np.argmax(observation[t, b, 9]))
    paddle = int(np.clip(paddle + action[t, b] - 1, 0, 4))
    assert timestep.reward[t, b] == (1. if ball == paddle else -1.)
    # The next episode's first observation: the ball is at the top.
    assert timestep.observation[t, b, 0].sum() == 1.
  assert len(np.unique(timestep.reward[ends])) == 2


def test_a_step_limit_ends_the_episode():
  environment = gymnax_adapter.load('Freeway-MinAtar')
  assert environment.max_episode_steps == 2500
  params = environment.init_params(None).replace(max_steps_in_episode=4)
  state, _ = environment.reset(params, jax.random.PRNGKey(0))
  discounts = []
  step = jax.jit(environment.step)
  for i in range(8):
    state, timestep = step(params, state, jnp.int32(0), jax.random.PRNGKey(i))
    discounts.append(float(timestep.discount))
  assert discounts == [1., 1., 1., 0.] * 2


@pytest.mark.parametrize('name, message', [
    ('Pendulum-v1', 'Pendulum-v1 has actions of the kind Box; allowed: '
     'Discrete'),
    ('CartPole', "gymnax has no environment 'CartPole'; did you mean "
     'CartPole-v1'),
])
def test_unsupported_environments_are_refused(name, message):
  with pytest.raises(ValueError) as info:
    gymnax_adapter.load(name)
  assert str(info.value).startswith(message) and '\n' not in str(info.value)
