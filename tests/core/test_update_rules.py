"""Each rule's targets and gradient against RLax, or by hand in float64."""

import functools

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import light_imports
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib

rlax = light_imports.import_rlax()
FEATURES, A, T, B = 3, 4, 5, 2
LPG_V = config_lib.RuleConfig(embedding_size=3, lstm_size=4, kind='lpg_v')
SETTINGS = settings_lib.AgentSettings(
    optimiser='sgd', learning_rate=1., gamma=0.9, max_abs_reward=1.,
    td_lambda=0.8, value_cost=0.3, entropy_cost=0.2)
HYPER = SETTINGS.hyper()


@pytest.fixture(scope='module', autouse=True)
def _clear_caches():
  yield
  make_learner.cache_clear()


def make_linear(num_outputs):
  return agent_networks.Network(
      init=lambda key: jax.random.normal(key, (FEATURES, num_outputs)),
      apply=lambda w, x: x @ w)


@functools.lru_cache(None)
def make_learner(name):
  return learner_lib.make_learner(
      make_linear, A, SETTINGS, registry.make(name, LPG_V))


def make_case(learner, seed=0):
  rng = np.random.default_rng(seed)
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  state = learner.init(jax.random.PRNGKey(seed))
  trajectory = types.Trajectory(
      numbers(T + 1, B, FEATURES), rng.integers(0, A, (T, B), np.int32),
      2. * numbers(T, B), np.float32(rng.random((T, B)) < 0.7))
  return state, base.Experience(
      trajectory, learner.evaluate(state.theta, trajectory.observation))


def softmax(x):
  z = np.exp(x - x.max())
  return z / z.sum()


def lambda_returns(trajectory, values):
  """TD(lambda) targets by recursion, [T, B], of clipped rewards."""
  reward = np.clip(np.asarray(trajectory.reward, np.float64), -1., 1.)
  result = np.zeros((T, B))
  following = values[T]
  for t in reversed(range(T)):
    mixed = 0.2 * values[t + 1] + 0.8 * following
    following = reward[t] + 0.9 * trajectory.discount_t[t] * mixed
    result[t] = following
  return result


def test_a2c_gradient_is_that_of_rlax():
  """RLax's mean losses, with lambda-returns of clipped rewards."""
  learner = make_learner('a2c')
  state, experience = make_case(learner)
  trajectory = experience.trajectory
  values = np.asarray(trajectory.observation, np.float64) @ np.asarray(
      state.theta, np.float64)[:, -1]
  returns = lambda_returns(trajectory, values)
  assert np.any(trajectory.discount_t == 0.)
  assert np.any(np.abs(trajectory.reward) > 1.)
  advantage = np.float32(returns - values[:-1]).ravel()

  def loss(theta):
    rows = (trajectory.observation[:-1] @ theta).reshape(T * B, -1)
    weights = np.ones(T * B, np.float32)
    return (rlax.policy_gradient_loss(rows[:, :A], trajectory.action.ravel(),
                                      advantage, weights)
            + 0.2 * rlax.entropy_loss(rows[:, :A], weights)
            + 0.3 * rlax.l2_loss(
                rows[:, A], np.float32(returns).ravel()).mean())

  new, metrics = learner.learn((), HYPER, state, experience)
  assert new.theta.shape == (FEATURES, A + 1)
  np.testing.assert_allclose(state.theta - new.theta,
                             jax.grad(loss)(state.theta), rtol=1e-4,
                             atol=1e-6)
  np.testing.assert_allclose(metrics['advantage_square'],
                             np.mean(advantage ** 2), rtol=1e-4)


def numpy_pi_hat(eta, trajectory, probability, values):
  """LPG-V's pi_hat, one step of one environment at a time."""
  eta = jax.tree_util.tree_map(lambda x: np.asarray(x, np.float64), eta)
  sigmoid = lambda z: 1. / (1. + np.exp(-z))
  hidden, out = eta['lpg/phi/~/linear_0'], eta['lpg/phi/~/linear_1']
  phi = lambda v: (np.maximum(v * hidden['w'][0] + hidden['b'], 0.)
                   @ out['w'] + out['b'])[0]
  lstm, head = eta['lpg/lstm/linear'], eta['lpg/pi_hat']
  result = np.zeros((T, B))
  for b in range(B):
    h = c = np.zeros(4)
    for t in reversed(range(T)):
      d = trajectory.discount_t[t, b]
      x = [np.clip(trajectory.reward[t, b], -1., 1.), d, 0.9,
           probability[t, b], phi(values[t, b]), d * phi(values[t + 1, b])]
      i, g, f, o = np.split(np.concatenate([x, d * h]) @ lstm['w']
                            + lstm['b'], 4)
      c = sigmoid(f + 1.) * d * c + sigmoid(i) * np.tanh(g)
      h = sigmoid(o) * np.tanh(c)
      result[t, b] = (h @ head['w'] + head['b'])[0]
  return result


def test_lpg_v_by_hand():
  """pi_hat from V(s), Eq. (7)'s baseline, and V(s) by TD(lambda)."""
  learner = make_learner('lpg_v')
  state, experience = make_case(learner, seed=1)
  eta = jax.tree_util.tree_map(
      lambda x: 0.5 * np.random.default_rng(x.size).normal(
          size=x.shape).astype(np.float32),
      rule_vector.init(LPG_V, jax.random.PRNGKey(2)))
  trajectory = experience.trajectory
  theta = np.asarray(state.theta, np.float64)
  out = np.asarray(trajectory.observation, np.float64) @ theta
  pi = np.apply_along_axis(softmax, -1, out[..., :A])
  chosen = np.take_along_axis(pi[:-1], trajectory.action[..., None], -1)[..., 0]
  values, baseline = out[..., A], out[..., A + 1]
  pi_hat = numpy_pi_hat(eta, trajectory, chosen, values)
  returns = lambda_returns(trajectory, values)
  ascent = np.zeros_like(theta)
  for t in range(T):
    for b in range(B):
      direction = np.zeros(A + 2)
      direction[:A] = (np.eye(A)[trajectory.action[t, b]] - pi[t, b]) * (
          pi_hat[t, b] - baseline[t, b])
      direction[A] = 0.3 * (returns[t, b] - values[t, b])
      direction[A + 1] = pi_hat[t, b] - baseline[t, b]
      ascent += np.outer(trajectory.observation[t, b], direction) / (T * B)
  new, _ = learner.learn(eta, HYPER, state, experience)
  np.testing.assert_allclose(new.theta - state.theta, ascent, rtol=1e-3,
                             atol=1e-5)
  # Other values V(s) change the update of every action.
  other = experience._replace(output=experience.output._replace(
      value=-experience.output.value))
  moved = learner.learn(eta, HYPER, state, other)[0].theta - new.theta
  assert np.all(np.abs(moved[:, :A]).max(axis=0) > 1e-6)


def test_eta_of_lpg_v():
  """Its size, the round trip of its vector, and its network's plain form."""
  # phi: 3+3 + 3+1; LSTM: (6+4)*16+16; head: 4+1.
  assert rule_vector.size(LPG_V) == 6 + 4 + 176 + 5
  eta = rule_vector.init(LPG_V, jax.random.PRNGKey(0))
  back = rule_vector.unravel(LPG_V, rule_vector.ravel(eta))
  jax.tree_util.tree_map(np.testing.assert_array_equal, eta, back)
  rng = np.random.default_rng(0)
  inputs = rule_inputs.RuleInput(*rng.normal(size=(4, T, B)).astype(np.float32),
                           rng.normal(size=(T + 1, B, 1)).astype(np.float32))
  plain = lpg_network.apply_reference(eta, LPG_V, inputs)
  assert plain.y_hat_logits is None
  np.testing.assert_allclose(lpg_network.apply(eta, inputs).pi_hat,
                             plain.pi_hat, rtol=1e-5, atol=1e-6)


def test_unknown_names_of_rules_are_refused():
  with pytest.raises(ValueError, match="no rule 'dqn'; allowed: lpg, a2c, ppo, "
                     'lpg_v, lpg_vector'):
    registry.make('dqn')
