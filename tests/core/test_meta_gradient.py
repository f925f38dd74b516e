"""The meta-gradient against finite differences, and its loss by hand."""

import dataclasses

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rollout
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry

if hasattr(jax, 'enable_x64'):
  enable_x64 = jax.enable_x64
else:  # JAX before 0.8.
  from jax.experimental import enable_x64

RULE = config_lib.RuleConfig(num_predictions=5, embedding_size=4, lstm_size=6)
NUM_LIFETIMES = 2


def make_config(environment, agent=None, **meta):
  agent = agent or config_lib.AGENTS[environment]
  fields = {'num_lifetimes': NUM_LIFETIMES, 'num_envs': 3,
            'trajectory_steps': 7, 'num_updates': 3, 'y_table_stddev': 1.,
            'min_policy_entropy': 0.}
  return config_lib.Config(
      environments=(environment,), agents={environment: agent}, rule=RULE,
      meta=config_lib.MetaConfig(**{**fields, **meta}))


def make_window(config, seed=0):
  """Returns a kind, new lifetimes (task and progress), keys and an eta."""
  (environment,) = config.environments
  kind = lifetime.make_kind(config, environment)
  num_arms = len(config.agents[environment].arms)
  split = lambda key: jax.random.split(key, NUM_LIFETIMES)

  @jax.jit  # One program: each operation by itself would be one too.
  def make(keys):
    task, progress = jax.vmap(
        lambda key: lifetime.init_lifetime(config, environment, kind, key,
                                           jnp.zeros(num_arms)),
        out_axes=lifetime.INIT_AXES)(split(keys[0]))
    progress = meta_gradient.collect(kind, config.meta, task, progress,
                                     split(keys[1]))
    progress = progress._replace(
        returns=rollout.reset_window(progress.returns))
    window_keys = jax.random.split(
        keys[2], NUM_LIFETIMES * config.meta.num_updates)
    window_keys = window_keys.reshape(
        NUM_LIFETIMES, config.meta.num_updates, 2)
    return task, progress, window_keys

  keys = jax.random.split(jax.random.PRNGKey(seed), 4)
  # Not within the program, which would sort the names of modules: tests draw
  # directions in their order.
  return kind, *make(keys), rule_vector.init(config.rule, keys[3])


def run_window(config, kind, eta, task, progress, keys):
  """The loss of one window; and the lifetimes after it, and its statistics.

  All arrays are arguments, so that equal windows have the same program.
  """
  return jax.jit(lambda eta, task, progress, keys: meta_gradient.window_loss(
      eta, kind, config, task, progress, keys))(eta, task, progress, keys)


def make_loss(config, seed=0, double=False):
  kind, task, progress, keys, eta = make_window(config, seed)
  if double:
    widen = lambda tree: jax.tree_util.tree_map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)
    eta = widen(eta)  # Environments stay in float32.
    progress = progress._replace(
        theta=widen(progress.theta), opt_state=widen(progress.opt_state),
        value=widen(progress.value))
  loss = jax.jit(lambda eta: meta_gradient.window_loss(
      eta, kind, config, task, progress, keys))
  return loss, eta


DENSE = config_lib.AgentConfig((), (6,), 'adam', (0.005,), (0.5,))
CONV = config_lib.AgentConfig((3,), (6,), 'adam', (0.005,), (0.5,))


@pytest.mark.parametrize('environment, agent', [
    ('chain_short', None),
    pytest.param('tabular_dense', None, marks=pytest.mark.pinned),
    pytest.param('random_small', DENSE, marks=pytest.mark.long),
    pytest.param('random_dense', CONV, marks=pytest.mark.pinned),
])
def test_equals_finite_differences(environment, agent):
  """With frozen random numbers; per group of parameters and all together."""
  with enable_x64():
    config = make_config(environment, agent)
    loss, eta = make_loss(config, double=True)
    flat, unravel = flatten_util.ravel_pytree(eta)
    assert flat.dtype == jnp.float64
    # One program for both, since compiling takes the time.
    evaluate = jax.jit(jax.value_and_grad(lambda x: loss(unravel(x))[0]))
    gradient = evaluate(flat)[1]
    rng = np.random.default_rng(0)
    for module in [*eta, None]:
      direction = jax.tree_util.tree_map_with_path(
          lambda path, x: rng.normal(size=x.shape) * (
              module is None or path[0].key == module), eta)
      d, _ = flatten_util.ravel_pytree(direction)
      d = d / jnp.linalg.norm(d)
      slope = float(gradient @ d)
      step = 1e-6
      value = lambda s: float(evaluate(flat + s * d)[0])
      central = lambda h: (value(h) - value(-h)) / (2 * h)
      # Richardson extrapolation, since Adam's square root is steep.
      difference = (4. * central(step / 2) - central(step)) / 3.
      assert abs(slope) > 1e-9, module
      np.testing.assert_allclose(slope, difference, rtol=2e-4, atol=2e-8,
                                 err_msg=str(module))


def y_hat_gradient(num_updates, kl_cost=0.5):
  agent = dataclasses.replace(config_lib.AGENTS['chain_short'],
                              kl_costs=(kl_cost,))
  # Enough environments at different steps of a chain that each trajectory
  # visits states of the one before it.
  config = make_config('chain_short', agent, num_updates=num_updates,
                       num_envs=16, trajectory_steps=10,
                       policy_entropy_costs=(0.,), prediction_entropy_cost=0.,
                       pi_hat_cost=0., y_hat_cost=0.)
  loss, eta = make_loss(config)
  gradient = jax.jit(jax.grad(lambda e: loss(e)[0]))(eta)
  return float(sum(jnp.linalg.norm(g) for g in gradient['lpg/y_hat'].values()))


@pytest.mark.pinned
def test_y_hat_has_a_gradient_through_later_updates_only():
  """With all beta = 0, y_hat changes y, which pi_hat of a later update reads.

  So it takes K >= 2, and alpha_y > 0.
  """
  assert y_hat_gradient(num_updates=2) > 1e-7
  assert y_hat_gradient(num_updates=1) == 0.
  assert y_hat_gradient(num_updates=2, kl_cost=0.) == 0.


@pytest.mark.pinned
@pytest.mark.parametrize('bad', ['nan', 'inf', 'collapsed'])
def test_a_broken_lifetime_does_not_change_the_others(bad):
  """Its own gradient is zero; the other's is the same as without it."""
  config = make_config('chain_short', num_updates=2, min_policy_entropy=1e-3)
  kind, task, progress, keys, eta = make_window(config)
  if bad == 'collapsed':
    # The first action's logit far above the second's, in every state.
    theta = progress.theta.at[1, :, 0].set(1e4)
  else:
    theta = progress.theta.at[1, 0].set(float(bad))
    theta = theta.at[1].add(float(bad))
  broken = progress._replace(theta=theta)

  grad = jax.jit(jax.grad(
      lambda eta, task, progress, keys: meta_gradient.window_loss(
          eta, kind, config, task, progress, keys), has_aux=True))
  pair, (after, stats) = grad(eta, task, broken, keys)
  first = lambda tree, axis=0: jax.tree_util.tree_map(
      lambda x: jax.lax.slice_in_dim(x, 0, 1, axis=axis), tree)
  alone = first(broken._replace(trajectory=()))._replace(
      trajectory=first(broken.trajectory, 1))
  single, (after_alone, _) = grad(eta, first(task), alone, keys[:1])

  assert not stats.finite[1] or stats.policy_entropy[1] < 1e-3
  assert stats.finite[0] and stats.policy_entropy[0] > 0.1
  assert stats.loss[1] == 0.
  for one, other in zip(*map(jax.tree_util.tree_leaves, (pair, single))):
    assert np.all(np.isfinite(one))
    np.testing.assert_allclose(one, other, rtol=1e-3,
                               atol=1e-6 * np.abs(other).max())
  np.testing.assert_allclose(after.theta[0], after_alone.theta[0], rtol=1e-4,
                             atol=1e-5)


@pytest.fixture(scope='module')
def chain():
  """A window of short chains, and the function that runs it."""
  config = make_config('chain_short')
  kind, task, progress, keys, eta = make_window(config)
  run = jax.jit(lambda progress: meta_gradient.window_loss(
      eta, kind, config, task, progress, keys))
  return config, progress, run


def test_last_trajectory_is_the_next_windows_first(chain):
  config, progress, run = chain
  _, (after, _) = run(progress)
  # It was made by theta_K: the same policy on the same random numbers.
  before = after._replace(env_state=None, returns=None)
  assert before.trajectory.action.shape == (7, NUM_LIFETIMES, 3)
  observation = after.trajectory.observation
  assert observation.shape[:3] == (8, NUM_LIFETIMES, 3)
  steps = config.meta.num_updates * 7
  assert int(jnp.max(after.returns.window_count)) <= steps


def test_the_critic_changes_the_loss_but_not_the_agents(chain):
  """The critic changes advantages; theta_K stays the same."""
  _, progress, run = chain
  other = progress._replace(value=progress.value._replace(
      params=progress.value.params + 3.))
  (loss, (after, _)), (other_loss, (other_after, _)) = run(progress), run(other)
  np.testing.assert_array_equal(after.theta, other_after.theta)
  assert loss != other_loss


def test_loss_by_hand():
  """Eq. (4) recomputed in NumPy from the window's last trajectory."""
  # The costs are so large that the tolerance hides no term.
  config = make_config('chain_short', num_updates=1, pi_hat_cost=10.,
                       y_hat_cost=0.3, prediction_entropy_cost=0.2)
  kind, task, progress, keys, eta = make_window(config)
  _, (after, stats) = run_window(config, kind, eta, task, progress, keys)
  _, advantage = jax.vmap(kind.critic.update, in_axes=(0, 1, 0),
                          out_axes=(0, 1))(
      progress.value, after.trajectory, task.hyper.gamma)
  targets, _ = kind.rule.compute_targets(
      eta, base.Experience(progress.trajectory, meta_gradient.agent_outputs(
          kind, progress.theta, progress.trajectory.observation,
          task.env_params)),
      meta_gradient.agent_hyper(task.hyper, config.outer.td_lambda))
  log_softmax = lambda x: np.asarray(jax.nn.log_softmax(x), np.float64)
  y_hat = np.exp(log_softmax(targets.y_hat_logits))
  for i in range(NUM_LIFETIMES):
    rows = np.asarray(after.theta[i])[after.trajectory.observation[:-1, i]]
    log_pi, log_y = log_softmax(rows[..., :2]), log_softmax(rows[..., 2:])
    action = np.asarray(after.trajectory.action[:, i])
    chosen = np.take_along_axis(log_pi, action[..., None], -1)[..., 0]
    entropy = lambda log_p: -np.mean(np.sum(np.exp(log_p) * log_p, -1))
    pi_hat_square = np.mean(np.square(targets.pi_hat[:, i]))
    assert pi_hat_square > 1e-4
    loss = (-np.mean(chosen * np.asarray(advantage[:, i]))
            - float(task.hyper.beta_0[i]) * entropy(log_pi)
            - 0.2 * entropy(log_y)
            + 10. * pi_hat_square
            + 0.3 * np.mean(np.sum(np.square(y_hat[:, i]), -1)))
    np.testing.assert_allclose(stats.loss[i], loss, rtol=1e-4)


@pytest.mark.pinned
def test_the_policy_loss_is_that_of_the_last_trajectory():
  """One window of two updates has the loss of the second of two windows.

  All but the costs of the targets, which cover both updates.
  """
  config = make_config('chain_short', num_updates=2)
  kind, task, progress, keys, eta = make_window(config)
  run = jax.jit(lambda progress, keys: meta_gradient.window_loss(
      eta, kind, config, task, progress, keys)[1])
  _, both = run(progress, keys)
  between, _ = run(progress, keys[:, :1])
  _, second = run(between, keys[:, 1:])
  without_target_costs = lambda stats: stats.loss - 0.001 * (
      stats.pi_hat_square + stats.y_hat_square)
  np.testing.assert_allclose(
      without_target_costs(both), without_target_costs(second), rtol=1e-4)


@pytest.fixture(scope='module')
def grid():
  """A kind, a function that computes its gradient, and that gradient."""
  config = make_config('tabular_dense')
  kind, task, progress, keys, eta = make_window(config)

  def gradient(kind):
    return jax.jit(jax.grad(lambda eta: meta_gradient.window_loss(
        eta, kind, config, task, progress, keys)[0]))(eta)

  return kind, gradient, gradient(kind)


@pytest.mark.parametrize('change', [
    lambda kind: kind._replace(recomputes=True),
    pytest.param(
        lambda kind: kind._replace(rule=kind.rule._replace(widen=None)),
        marks=pytest.mark.pinned)], ids=['recomputes', 'narrow'])
def test_optimisations_do_not_change_the_gradient(grid, change):
  kind, gradient, plain = grid
  assert not kind.recomputes and kind.rule.widen
  jax.tree_util.tree_map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      plain, gradient(change(kind)))


@pytest.mark.parametrize('kind_name', [
    'lpg', pytest.param('lpg_v', marks=pytest.mark.pinned),
    pytest.param('lpg_vector', marks=pytest.mark.pinned)])
def test_a_rule_sees_the_gamma_of_its_lifetime_at_each_step(kind_name):
  config = make_config('chain_short')
  config = dataclasses.replace(
      config, rule=dataclasses.replace(RULE, kind=kind_name),
      evaluator=config_lib.EvaluatorConfig(enabled=False))
  kind, task, progress, _, eta = make_window(config)
  gammas = np.array([0.9, 0.7], np.float32)
  task = task._replace(hyper=task.hyper._replace(gamma=jnp.array(gammas)))
  seen = []

  def network(eta, inputs):
    seen.append(np.asarray(inputs.gamma))
    return lpg_network.apply(eta, inputs)

  kind = kind._replace(rule=registry.make_learned(config.rule, network=network))
  meta_gradient.update_agents(
      kind, config, eta, progress.theta, progress.opt_state,
      progress.trajectory, task, meta_gradient.value_estimates(kind, progress))
  (gamma,) = seen
  np.testing.assert_array_equal(
      gamma, np.broadcast_to(gammas[:, None], (7, NUM_LIFETIMES, 3)))
