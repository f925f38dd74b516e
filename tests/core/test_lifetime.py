"""Lifetimes: initial state, staggered ages, ends, and broken lifetimes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import lifetime
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rollout
from lpg_distributed.core import rule_vector
from tests.core.lifetime_testing import B
from tests.core.lifetime_testing import break_lifetime
from tests.core.lifetime_testing import K
from tests.core.lifetime_testing import Kind
from tests.core.lifetime_testing import L
from tests.core.lifetime_testing import map_slots
from tests.core.lifetime_testing import T
from tests.core.lifetime_testing import WINDOWS


@pytest.fixture(scope='module')
def chain():
  return Kind('chain_short')


@pytest.fixture(scope='module')
def network():
  return Kind('chain_state_distraction')


@pytest.fixture(scope='module')
def chain_run(chain):
  return chain.run(3 * WINDOWS)


@pytest.fixture(params=['chain', 'network'])
def kind(request):
  return request.getfixturevalue(request.param)


def assert_equal(one, other):
  jax.tree_util.tree_map(np.testing.assert_array_equal, one, other)


# Initial state.


def test_a_new_lifetime_is_initialised_as_configured(chain):
  _, progress = jax.jit(jax.vmap(
      lambda key: lifetime.init_lifetime(
          chain.config, 'chain_short',
          lifetime.make_kind(chain.config, 'chain_short'), key,
          jnp.zeros(chain.arms)), out_axes=lifetime.INIT_AXES))(
              jax.random.split(jax.random.PRNGKey(0), 1000))
  theta = np.asarray(progress.theta)
  assert not theta[..., :2].any()  # A uniform policy, in all states.
  # Predictions are distinct, with the configured standard deviation.
  count = theta[..., 2:].size
  assert np.unique(theta[..., 2:]).size > 0.9 * count
  np.testing.assert_allclose(theta[..., 2:].std(), 0.1, rtol=0.01)
  assert not np.asarray(progress.value.params).any()
  assert not np.asarray(progress.returns.whole).any()
  np.testing.assert_array_equal(progress.trajectory.observation.shape,
                                (T + 1, 1000, B))


def test_environments_are_out_of_phase(chain):
  """Within a lifetime, at steps spread evenly over an episode."""
  def init(key):
    task, progress = lifetime.init_lifetime(
        chain.config, 'chain_short',
        lifetime.make_kind(chain.config, 'chain_short'), key,
        jnp.zeros(chain.arms))
    return task.env_params.length, progress.env_state.time

  num = 3000
  length, time = map(np.asarray, jax.jit(jax.vmap(init))(
      jax.random.split(jax.random.PRNGKey(1), num)))
  assert set(np.unique(length)) == set(range(5, 31))
  assert np.all((time >= 0) & (time < length[:, None]))
  place = (time + 0.5) / length[:, None]
  assert abs(place.mean() - 0.5) < 5 / np.sqrt(12 * num * B)
  # Two environments of one lifetime agree no more often than by chance.
  same = np.mean(time[:, 0] == time[:, 1])
  chance = np.mean(1. / length)
  assert abs(same - chance) < 5 * np.sqrt(chance / num)


def test_hyper_params_have_the_configured_distributions(chain):
  num = 40_000
  probabilities = np.array([0.4, 0.25, 0., 0.1, 0.05, 0.05, 0.05, 0.05, 0.05])
  with np.errstate(divide='ignore'):
    log_probs = jnp.asarray(np.log(probabilities), jnp.float32)
  draws = jax.jit(jax.vmap(lambda key: lifetime.draw_hyper_params(
      key, chain.config, 'chain_short', log_probs)))(
          jax.random.split(jax.random.PRNGKey(2), num))
  draws = jax.tree_util.tree_map(np.asarray, draws)
  counts = np.bincount(draws.arm, minlength=9)
  deviation = np.sqrt(num * probabilities * (1 - probabilities))
  assert np.all(np.abs(counts - num * probabilities) <= 5 * deviation)
  assert counts[2] == 0
  arms = np.array(chain.config.agents['chain_short'].arms, np.float32)
  np.testing.assert_array_equal(draws.learning_rate, arms[draws.arm, 0])
  np.testing.assert_array_equal(draws.kl_cost, arms[draws.arm, 1])
  # Table 2: all four pairs are equally likely, so the two are independent.
  for gamma in (0.995, 0.99):
    for beta_0 in (0.01, 0.02):
      count = np.sum((draws.gamma == np.float32(gamma))
                     & (draws.beta_0 == np.float32(beta_0)))
      assert abs(count - num / 4) < 5 * np.sqrt(num * 3 / 16)
  # And they do not depend on the arm.
  first = draws.arm == 0
  assert abs(np.mean(draws.gamma[first] == np.float32(0.99)) - 0.5) < (
      2.5 / np.sqrt(first.sum()))


def test_arms_are_drawn_from_the_bandits_probabilities(chain):
  log_probs = np.full(chain.arms, -np.inf, np.float32)
  log_probs[7] = 0.
  _, metrics = chain.run(1, log_probs=log_probs)
  np.testing.assert_array_equal(metrics[0].arm, [7] * L)


# Ages.


def test_first_ages_are_staggered(chain):
  """Over all of the kind's slots, whichever shard holds them."""
  halves = [chain.run(WINDOWS, shard_id=i, first_slot=i * L,
                      kind_lifetimes=2 * L)[1] for i in range(2)]
  ages = np.concatenate([metrics[0].age for metrics in halves])
  np.testing.assert_array_equal(
      ages, 1 + np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]))
  # With such ages, equally many lifetimes end at each meta-step.
  ended = sum(np.array([m.ended.sum() for m in metrics])
              for metrics in halves)
  np.testing.assert_array_equal(ended, [2 * L // WINDOWS] * WINDOWS)


def leave_out_windows(setup, eta, task, progress, keys):
  """Replaces the windows, which take long to compile and change no age."""
  del setup, keys
  zeros = jnp.zeros_like(task.hyper.gamma)
  stats = meta_gradient.WindowStats(*[zeros] * 7)._replace(
      finite=zeros == 0., policy_entropy=zeros + 1.)
  return jnp.zeros_like(eta)[None], progress, stats


def test_ages_that_are_not_staggered_are_equal(monkeypatch):
  monkeypatch.setattr(lifetime, '_window_gradients', leave_out_windows)
  together = Kind('chain_short', staggered_ages=False)
  _, metrics = together.run(WINDOWS)
  np.testing.assert_array_equal([m.age for m in metrics],
                                np.arange(1, WINDOWS + 1)[:, None]
                                * np.ones((1, L), int))
  np.testing.assert_array_equal([m.ended.sum() for m in metrics],
                                [0] * (WINDOWS - 1) + [L])
  # No first lifetime was cut short, so all returns are reported.
  np.testing.assert_array_equal([m.reported.sum() for m in metrics],
                                [0] * (WINDOWS - 1) + [L])


def test_lifetimes_end_at_their_length_and_begin_anew(chain_run):
  _, metrics = chain_run
  age = np.array([m.age for m in metrics])
  ended = np.array([m.ended for m in metrics])
  np.testing.assert_array_equal(ended, age == WINDOWS)
  expected = np.where(ended[:-1], 1, age[:-1] + 1)
  np.testing.assert_array_equal(age[1:], expected)
  assert not np.array([m.collapsed | m.not_finite for m in metrics]).any()


def test_only_whole_lifetimes_are_reported(chain_run):
  _, metrics = chain_run
  ended = np.array([m.ended for m in metrics])
  reported = np.array([m.reported for m in metrics])
  first = np.cumsum(ended, axis=0) == 1
  began_midway = np.array(metrics[0].age) > 1
  assert began_midway.tolist() == [False, False, True, True, True, True]
  np.testing.assert_array_equal(reported,
                                ended & ~(first & began_midway))


# End of a lifetime.


def scramble(x, axis, slots):
  """Changes all values of the lifetimes `slots`."""
  x = np.array(x)
  view = np.moveaxis(x, axis, 0)
  if x.dtype == bool:
    view[slots] = ~view[slots]
  elif x.dtype == np.float32:
    view[slots] = np.nan
  else:
    view[slots] = view[slots] + 1
  return x


def test_an_ended_lifetime_does_not_affect_the_next(kind):
  """Any values in an ended lifetime give the same next step."""
  states, metrics = kind.run(WINDOWS)
  step = max(i for i, m in enumerate(metrics) if m.ended.any())
  state, ended = states[step + 1], metrics[step].ended
  assert ended.any() and not ended.all()
  garbage = map_slots(functools.partial(scramble, slots=ended), state)
  garbage = garbage._replace(ended=state.ended)
  assert_equal(kind.step(garbage, step + 1), kind.step(state, step + 1))


def test_all_state_of_a_running_lifetime_is_carried_over(kind):
  """A change in any part of a running lifetime changes the next gradient."""
  states, _ = kind.run(2)
  state = states[-1]._replace(ended=np.zeros(L, bool))
  value = state.progress.value
  after = kind.step(state, 2)[1]
  np.testing.assert_array_equal(after.progress.value.num_updates,
                                value.num_updates + K)
  assert np.any(np.concatenate([
      np.ravel(x) for x in jax.tree_util.tree_leaves(value.params)]) != 0)
  assert_equal(after.task, state.task)
  for part in ('theta', 'value', 'opt_state', 'env_state', 'trajectory'):
    old = getattr(state.progress, part)
    changed = jax.tree_util.tree_map(
        lambda x: x * np.float32(0.5) if x.dtype == np.float32
        else 1 - np.minimum(x, 1), old)
    if not jax.tree_util.tree_leaves(changed):
      continue  # SGD has no state.
    other = state._replace(progress=state.progress._replace(
        **{part: changed}))
    gradient, _, _ = kind.step(state, 2)
    other_gradient, _, _ = kind.step(other, 2)
    assert np.any(gradient != other_gradient), part


def test_adam_counts_updates_since_the_lifetime_began(network):
  states, metrics = network.run(WINDOWS + 1)
  first_age = metrics[0].age - 1
  for state, row in zip(states[1:], metrics):
    windows = np.where(row.age > first_age, row.age - first_age, row.age)
    windows = np.where(np.array(state.whole) & (first_age > 0), row.age,
                       windows)
    np.testing.assert_array_equal(
        state.progress.opt_state.count, windows * K)
    np.testing.assert_array_equal(
        state.progress.value.num_updates, windows * K)


@pytest.fixture(scope='module')
def compute_gradient_of_others(chain):
  """Computes the gradient without slot 2, with the keys of the shard."""
  others = np.array([i for i in range(L) if i != 2])
  kind = lifetime.make_kind(chain.config, 'chain_short')
  gradient = jax.jit(jax.grad(
      lambda eta, task, progress, keys: meta_gradient.window_loss(
          rule_vector.unravel(chain.config.rule, eta), kind,
          chain.config, task, progress, keys)[0]))

  def compute(state, meta_step):
    key = jax.random.fold_in(jax.random.fold_in(
        jax.random.PRNGKey(0), 0), meta_step)
    keys = jax.random.split(key, L * (K + 2)).reshape(L, K + 2, -1)
    state = map_slots(lambda x, axis: np.take(x, others, axis), state)
    return gradient(chain.eta, state.task, state.progress, keys[others, 2:])

  return compute


@pytest.mark.parametrize('how', ['collapsed', 'nan', 'inf', 'value'])
def test_a_broken_lifetime_ends_alone(chain, compute_gradient_of_others, how):
  """At once, with no part in the gradient; the next step starts a new one."""
  states, _ = chain.run(1, first_slot=1, kind_lifetimes=2 * L)
  state = states[-1]
  assert not state.ended.any()
  slot = np.arange(L) == 2
  gradient, after, metrics = chain.step(break_lifetime(state, how), 1)

  others = compute_gradient_of_others(state, 1)
  np.testing.assert_allclose(gradient, others, rtol=1e-3,
                             atol=1e-6 * np.abs(others).max())
  assert np.abs(others).max() > 0 and not metrics.gradient_not_finite
  assert metrics.loss[2] == 0.
  np.testing.assert_array_equal(metrics.collapsed,
                                slot & (how == 'collapsed'))
  np.testing.assert_array_equal(metrics.not_finite,
                                slot & (how != 'collapsed'))
  # It began midway and is not old; its return is reported all the same.
  assert 1 < metrics.age[2] < WINDOWS and not state.whole[2]
  assert metrics.ended[2] and metrics.reported[2]
  assert np.isfinite(metrics.final_return).all()
  _, healthy, _ = chain.step(state, 1)
  keep = lambda x, axis: np.delete(np.array(x), 2, axis)
  jax.tree_util.tree_map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
      map_slots(keep, after), map_slots(keep, healthy))

  _, restarted, metrics = chain.step(after, 2)
  assert metrics.age[2] == 1 and not metrics.not_finite.any()
  assert restarted.whole[2]
  assert np.abs(restarted.progress.theta[2]).max() < 100.


# Random numbers.


def test_a_run_is_reproducible(chain, chain_run):
  states, metrics = chain.run(3 * WINDOWS)
  assert_equal(states[-1], chain_run[0][-1])
  assert_equal(metrics[-1], chain_run[1][-1])


def test_sampling_depends_on_seed_shard_and_meta_step_only(chain):
  state = chain.run(1)[0][-1]
  base = chain.step(state, 1)[1].progress.trajectory.action
  for change in ({'seed': 1}, {'shard_id': 1}, {'meta_step': 2}):
    other = chain.step(state, **{'meta_step': 1, **change})[1]
    assert np.mean(other.progress.trajectory.action == base) < 0.8, change
  # Slots determine nothing but the first ages.
  same = chain.step(state, 1, first_slot=6, kind_lifetimes=50)[1]
  np.testing.assert_array_equal(same.progress.trajectory.action, base)


def test_sampling_differs_between_shards_and_slots(chain):
  actions = [chain.run(1, shard_id=i)[0][-1].progress.trajectory.action
             for i in range(2)]
  assert np.mean(actions[0] == actions[1]) < 0.8
  assert np.mean(actions[0][:, 0] == actions[0][:, 1]) < 0.95


# Shards and returns.


@pytest.mark.parametrize('num_lifetimes, per_shard', [
    (3, 16), (17, 4), (64, 16), (960, 16), (31, 1)])
def test_shards_cover_every_slot_once(num_lifetimes, per_shard):
  names = ('chain_short', 'tabular_dense', 'random_small')
  config = config_lib.Config(
      environments=names, shares=(1., 2., 3.5),
      meta=config_lib.MetaConfig(num_lifetimes=num_lifetimes),
      run=config_lib.RunConfig(lifetimes_per_shard=per_shard))
  shards = config.shards()
  assert [s.shard_id for s in shards] == list(range(len(shards)))
  assert sum(s.num_lifetimes for s in shards) == num_lifetimes
  for name, total in zip(names, config.lifetimes_per_environment()):
    own = [s for s in shards if s.environment == name]
    slots = [slot for s in own
             for slot in range(s.first_slot, s.first_slot + s.num_lifetimes)]
    assert slots == list(range(total))
    sizes = {s.num_lifetimes for s in own}
    assert max(sizes) <= per_shard and max(sizes) - min(sizes) <= 1
    assert {s.kind_lifetimes for s in own} == {total}


def test_final_return():
  """Return of the last whole episode; without one, of the running episode."""
  returns = rollout.EpisodeReturns(
      running=jnp.array([5., -2., 7.]), whole=jnp.array([True, True, False]),
      last=jnp.array([1., 0., 0.]), any_whole=jnp.array([True, False, False]),
      window_sum=jnp.zeros(3), window_count=jnp.zeros(3))
  np.testing.assert_allclose(rollout.final_return(returns), (1 - 2 + 7) / 3)


def test_metrics_have_the_final_return_of_each_lifetime(chain_run):
  states, metrics = chain_run
  for state, row in zip(states[1:], metrics):
    returns = state.progress.returns
    np.testing.assert_allclose(
        row.final_return,
        np.where(returns.any_whole, returns.last,
                 returns.running).mean(axis=1), rtol=1e-6)
