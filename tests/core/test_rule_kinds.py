"""LPG-V and LPG without softmax: updates by hand, and meta-gradients."""

import dataclasses
import functools

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import distributions
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry
from tests.core import test_meta_gradient as windows

V, VECTOR = 'lpg_v', 'lpg_vector'
DENSE = config_lib.AgentConfig((), (6,), 'adam', (0.005,), (0.5,))


def run_window(*args):
  return windows.run_window(*args)[1]


def make_config(kind, environment='chain_short', agent=None, **meta):
  config = windows.make_config(environment, agent, **meta)
  return dataclasses.replace(
      config, rule=dataclasses.replace(config.rule, kind=kind),
      evaluator=config_lib.EvaluatorConfig(enabled=False))


def make_window(config, learned=True):
  """Builds a window of meta-training.

  If `learned`, the critic's values are random; else they are all 0.
  """
  kind, task, progress, keys, eta = windows.make_window(config)
  if learned:
    shake = lambda x: x + 0.3 * jax.random.normal(
        jax.random.PRNGKey(x.size), x.shape, x.dtype)
    progress = progress._replace(value=progress.value._replace(
        params=jax.tree_util.tree_map(shake, progress.value.params)))
  return kind, task, progress, keys, eta


@pytest.mark.parametrize('kind_name, environment, agent', [
    (V, 'chain_state_distraction', DENSE),
    pytest.param(VECTOR, 'chain_short', None, marks=pytest.mark.pinned),
])
def test_equals_finite_differences(kind_name, environment, agent):
  with windows.enable_x64():
    config = make_config(kind_name, environment, agent, num_updates=2)
    kind, task, progress, keys, eta = make_window(config)
    widen = functools.partial(
        jax.tree_util.tree_map,
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x)
    eta = widen(eta)
    progress = progress._replace(
        theta=widen(progress.theta), opt_state=widen(progress.opt_state),
        value=widen(progress.value))
    flat, unravel = flatten_util.ravel_pytree(eta)
    evaluate = jax.jit(jax.value_and_grad(
        lambda flat: meta_gradient.window_loss(
            unravel(flat), kind, config, task, progress, keys)[0]))
    gradient = evaluate(flat)[1]
    rng = np.random.default_rng(0)
    for module in eta:
      direction = {name: {key: rng.normal(size=x.shape) * (name == module)
                          for key, x in layer.items()}
                   for name, layer in eta.items()}
      d, _ = flatten_util.ravel_pytree(direction)
      d = d / jnp.linalg.norm(d)
      value = lambda s: float(evaluate(flat + s * d)[0])
      central = lambda h: (value(h) - value(-h)) / (2 * h)
      difference = (4. * central(5e-7) - central(1e-6)) / 3.
      slope = float(gradient @ d)
      assert abs(slope) > 1e-9, module
      np.testing.assert_allclose(slope, difference, rtol=2e-4, atol=2e-8,
                                 err_msg=module)


def test_lpg_v_computes_pi_hat_from_the_critics_values():
  """One update by hand: only the policy moves, by pi_hat of r and V(s)."""
  config = make_config(V, num_updates=1)
  kind, task, progress, keys, eta = make_window(config)
  assert progress.theta.shape[-1] == 2  # No outputs other than the policy's.
  after, stats = run_window(config, kind, eta, task, progress, keys)
  t = progress.trajectory
  for i in range(windows.NUM_LIFETIMES):
    table = np.asarray(progress.theta[i], np.float64)
    pi = np.exp(table) / np.exp(table).sum(axis=-1, keepdims=True)
    observation, action = np.asarray(t.observation[:, i]), np.asarray(
        t.action[:, i])
    values = np.asarray(progress.value.params[i])[observation]  # [T+1, B, 1]
    chosen = pi[observation[:-1], action]
    gamma = np.full_like(chosen, task.hyper.gamma[i])
    pi_hat = np.asarray(lpg_network.apply_reference(
        eta, config.rule, rule_inputs.RuleInput(
            t.reward[:, i], t.discount_t[:, i], jnp.float32(gamma),
            jnp.float32(chosen), jnp.asarray(values))).pi_hat)
    ascent = np.zeros_like(table)
    for s, a, weight in zip(observation[:-1].ravel(), action.ravel(),
                            pi_hat.ravel()):
      ascent[s] += (np.eye(2)[a] - pi[s]) * weight / action.size
    np.testing.assert_allclose(
        after.theta[i] - progress.theta[i],
        task.hyper.learning_rate[i] * ascent,
        rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stats.pi_hat_square[i], np.mean(pi_hat ** 2),
                               rtol=1e-4)
  assert not np.any(stats.y_hat_square) and not np.any(stats.kl)
  assert not np.any(stats.y_entropy)
  # The critics' values change the update.
  other = progress._replace(value=progress.value._replace(
      params=progress.value.params + 1.))
  moved = run_window(config, kind, eta, task, other, keys)[0].theta
  assert np.abs(moved - after.theta).max() > 1e-4


def test_lpg_vector_updates_y_by_the_squared_error():
  """d/dy of alpha_y * ||y - y_hat||^2 is 2 alpha_y (y - y_hat)."""
  config = make_config(VECTOR, num_updates=1)
  kind, task, progress, keys, eta = make_window(config)
  after, stats = run_window(config, kind, eta, task, progress, keys)
  output = meta_gradient.agent_outputs(
      kind, progress.theta, progress.trajectory.observation, task.env_params)
  log_pi = distributions.log_probability(output.logits[:-1],
                                        progress.trajectory.action)
  # The rule's input is y itself, not its softmax.
  targets = lpg_network.apply_reference(
      eta, config.rule, rule_inputs.RuleInput(
          *(x[:, 0] for x in (progress.trajectory.reward,
                              progress.trajectory.discount_t)),
          jnp.broadcast_to(task.hyper.gamma[0], log_pi[:, 0].shape),
          jnp.exp(log_pi[:, 0]), output.y_logits[:, 0]))
  y_hat = np.asarray(targets.y_hat_logits, np.float64)
  observation = np.asarray(progress.trajectory.observation[:-1, 0])
  table = np.asarray(progress.theta[0], np.float64)[:, 2:]
  descent = np.zeros_like(table)
  for s, target in zip(observation.ravel(), y_hat.reshape(-1, 5)):
    descent[s] += 2. * (table[s] - target) / observation.size
  scale = float(task.hyper.learning_rate[0] * task.hyper.kl_cost[0])
  np.testing.assert_allclose(
      after.theta[0, :, 2:] - progress.theta[0, :, 2:], -scale * descent,
      rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(
      stats.y_hat_square[0], np.mean(np.sum(y_hat ** 2, axis=-1)), rtol=1e-4)
  np.testing.assert_allclose(
      stats.kl[0], np.mean(np.sum((table[observation] - y_hat) ** 2, -1)),
      rtol=1e-4)
  assert not np.any(stats.y_entropy)


def test_predictions_of_each_kind():
  make = lambda kind: registry.make_learned(config_lib.RuleConfig(
      num_predictions=3, kind=kind))
  y, y_hat = jnp.array([1., 2., 3.]), jnp.array([0., 2., 5.])
  assert [make(k).outputs.num_predictions
          for k in registry.learned()] == [3, 0, 3]
  assert make(V).predictions is None
  assert rule_vector.predicting_kinds() == ('lpg', VECTOR)
  vector = make(VECTOR).predictions
  np.testing.assert_allclose(vector.distance(y, y_hat), 5.)
  np.testing.assert_array_equal(vector.represent(y), y)
  softmax = lambda x: np.exp(x) / np.exp(x).sum()
  p, q = softmax(np.array(y)), softmax(np.array(y_hat))
  categorical = make('lpg').predictions
  np.testing.assert_allclose(categorical.distance(y, y_hat),
                             np.sum(p * np.log(p / q)), rtol=1e-6)
  np.testing.assert_allclose(categorical.represent(y), p, rtol=1e-6)


@pytest.mark.parametrize('kind_name', [
    V, pytest.param(VECTOR, marks=pytest.mark.pinned)])
def test_simulate_updates_agents_as_meta_training_does(kind_name):
  """From the same start, `simulate` and a window give the same agents."""
  config = make_config(kind_name, num_updates=3)
  key = jax.random.PRNGKey(1)
  kind, _, _, _, eta = make_window(config)
  vector = rule_vector.ravel(eta)
  lifetimes, end = jax.jit(lambda vector: train_agents.simulate(
      config, 'chain_short', lambda kind: train_agents.make_learner(
          config, kind, vector), key, 2, jnp.zeros(9), 3))(vector)
  init_key, first_key, life_key = jax.random.split(key, 3)
  task, progress = train_agents.init_lifetimes(
      config, 'chain_short', kind, (init_key, first_key), 2, jnp.zeros(9))
  keys = jnp.stack([jax.random.split(k, 2) for k in
                    jax.random.split(life_key, 3)], axis=1)
  after, _ = run_window(config, kind, eta, task, progress, keys)
  np.testing.assert_allclose(lifetimes.theta, after.theta, rtol=1e-4, atol=1e-5)
  if kind_name == V:  # Agents of LPG-V learn from the critic's values.
    np.testing.assert_allclose(end.progress.value.params, after.value.params,
                               rtol=1e-4, atol=1e-6)
  assert lifetimes.input_means['phi'].shape == (3, 2)
  assert np.all(np.isfinite(lifetimes.input_means['phi']))
