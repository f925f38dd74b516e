"""Comparisons of rules: equal lifetimes, and correct ablations."""

import dataclasses

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import evaluation
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.nodes import bandit_server
from tests.core import test_lpg_network

ENVIRONMENT = 'chain_short'
L, B, T, N = 5, 3, 8, 6
CONFIG = config_lib.Config(
    environments=(ENVIRONMENT,),
    agents={ENVIRONMENT: dataclasses.replace(
        config_lib.AGENTS[ENVIRONMENT], learning_rates=(40., 80.),
        kl_costs=(0.5,), lifetime_env_steps=N * B * T)},
    rule=config_lib.RuleConfig(num_predictions=4, embedding_size=3,
                               lstm_size=3),
    meta=config_lib.MetaConfig(num_lifetimes=L, num_envs=B, num_updates=2,
                               trajectory_steps=T, y_table_stddev=1.))
Variant = evaluation.Variant


@pytest.fixture(scope='module')
def calls():
  """Compiles once per `kl_cost`; records lifetimes and keys."""
  train, cache, recorded = train_agents.train_agents, {}, []

  def cached(config, environment, eta, key, num_lifetimes, log_probs, *,
             kl_cost, hyper=None):
    if kl_cost not in cache:
      cache[kl_cost] = jax.jit(lambda eta, key, log_probs, hyper: train(
          config, environment, eta, key, num_lifetimes, log_probs,
          kl_cost=kl_cost, hyper=hyper))
    result = cache[kl_cost](eta, key, log_probs, hyper)
    jax.debug.callback(lambda *x: recorded.append(jax.device_get(x)), key, eta,
                       result)
    return result

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_agents, 'train_agents', cached)
    yield recorded


def evaluate(calls, variants, bandit_state=None):
  """Scores by name, and (key, eta, Lifetimes) by name."""
  calls.clear()
  scores = evaluation.evaluate(CONFIG, ENVIRONMENT, variants, bandit_state, L)
  jax.effects_barrier()
  return scores, dict(zip(variants, calls))


@pytest.fixture(scope='module')
def eta():
  return 4. * np.asarray(meta_update.init(CONFIG).eta)


def test_all_variants_have_the_same_lifetimes(calls, eta):
  """Also holds for a variant that is compiled separately."""
  scores, by_name = evaluate(calls, {
      'one': Variant(eta), 'other': Variant(-eta),
      'same': Variant(eta, kl_cost=0.5)})
  for name in ('other', 'same'):
    np.testing.assert_array_equal(by_name[name][0], by_name['one'][0])
    np.testing.assert_array_equal(by_name[name][2].hyper.arm,
                                  by_name['one'][2].hyper.arm)
  assert scores['same'] == scores['one']
  assert not np.array_equal(by_name['other'][2].input_means['phi'],
                            by_name['one'][2].input_means['phi'])
  np.testing.assert_allclose(
      scores['other'].mean,
      np.mean(by_name['other'][2].final_return, dtype=np.float64), rtol=1e-5)
  returns = np.float64(by_name['one'][2].final_return)
  np.testing.assert_allclose(scores['one'].mean, returns.mean(), rtol=1e-5)
  np.testing.assert_allclose(
      scores['one'].standard_error,
      np.std(returns, ddof=1) / np.sqrt(L), rtol=1e-5)
  assert scores['one'].num_lifetimes == L


def test_lifetimes_are_held_out(calls, eta):
  """The key of held-out lifetimes differs from that of every shard."""
  _, by_name = evaluate(calls, {'one': Variant(eta)})
  seed = jax.random.PRNGKey(CONFIG.run.seed)
  fold_in = jax.random.fold_in
  shards = jax.vmap(lambda shard: jax.vmap(lambda step: fold_in(
      fold_in(seed, shard), step))(np.arange(20)))(np.arange(5000))
  assert not np.any(np.all(shards == by_name['one'][0], axis=-1))


@pytest.mark.parametrize('others', [(), ('chain_long',)])
def test_lifetimes_depend_on_the_name_of_their_environment(others):
  """Not on its place in the run's list; 10 is the number of chain_short."""
  config = dataclasses.replace(
      CONFIG, environments=(*others, ENVIRONMENT),
      agents={**config_lib.AGENTS, **CONFIG.agents})
  np.testing.assert_array_equal(
      evaluation.Comparison(config, ENVIRONMENT, L)._key,
      evaluation.held_out_key(CONFIG.run.seed, 10))


def test_arms_are_drawn_from_the_bandits_probabilities(calls, eta):
  server = bandit_server.BanditServer(CONFIG)
  server.end_step(0, [[0, 0, 0, ENVIRONMENT, 0, -9.],
                      [0, 0, 1, ENVIRONMENT, 1, 9.]])
  _, by_name = evaluate(calls, {'one': Variant(eta)}, server.get_state())
  np.testing.assert_array_equal(
      by_name['one'][2].hyper.learning_rate, [80.] * L)


def test_phi_is_held_at_its_mean(calls, eta):
  _, by_name = evaluate(calls, {
      'other': Variant(-eta), 'trained': Variant(eta),
      'held': Variant(eta, held='phi', held_of='trained')})
  lifetimes = by_name['trained'][2]
  phi = lifetimes.input_means['phi']
  assert phi.shape == (N, L) and phi.std() > 0.
  held = rule_vector.unravel(CONFIG.rule, by_name['held'][1])
  y = np.random.default_rng(0).dirichlet(np.ones(4), size=7)
  np.testing.assert_allclose(lpg_network.embed(held, np.float32(y)),
                             lifetimes.input_means['phi'].mean(), rtol=1e-5)
  # The rest of the rule is unchanged.
  trained = rule_vector.unravel(CONFIG.rule, eta)
  changed = {(module, name) for module, layer in trained.items()
             for name, x in layer.items()
             if np.any(x != held[module][name])}
  assert changed == {('lpg/phi/~/linear_1', 'w'), ('lpg/phi/~/linear_1', 'b')}
  assert np.any(by_name['held'][2].theta != lifetimes.theta)
  np.testing.assert_allclose(
      by_name['held'][2].input_means['phi'],
      lifetimes.input_means['phi'].mean(), rtol=1e-5)


def test_the_policy_is_held_at_its_mean(calls, eta):
  _, by_name = evaluate(calls, {
      'trained': Variant(eta),
      'held': Variant(eta, held='action_probability', held_of='trained')})
  mean = by_name['trained'][2].input_means['action_probability'].mean()
  assert 0.4 < mean < 1.  # Of two actions.
  inputs = test_lpg_network.make_inputs(5, (3,), 4)
  held = rule_vector.unravel(CONFIG.rule, by_name['held'][1])
  constant = inputs._replace(
      action_probability=np.full_like(inputs.action_probability, mean))
  expected = lpg_network.apply(rule_vector.unravel(CONFIG.rule, eta), constant)
  found = lpg_network.apply(held, inputs)
  np.testing.assert_allclose(found.pi_hat, expected.pi_hat, rtol=2e-5,
                             atol=2e-6)
  np.testing.assert_allclose(found.y_hat_logits, expected.y_hat_logits,
                             rtol=2e-5, atol=2e-6)
  assert np.any(by_name['held'][2].theta != by_name['trained'][2].theta)


def test_holding_a_constant_phi_changes_no_score(calls, eta):
  constant = rule_vector.ravel(lpg_network.hold_phi(
      rule_vector.unravel(CONFIG.rule, eta), 0.3))
  scores, _ = evaluate(calls, {
      'trained': Variant(constant),
      'held': Variant(constant, held='phi', held_of='trained')})
  np.testing.assert_allclose(scores['held'][:2], scores['trained'][:2],
                             rtol=1e-6)


def test_diverged_lifetimes_are_left_out_of_the_mean_of_phi(
    calls, eta, monkeypatch):
  train = train_agents.train_agents

  def diverging(*args, **kwargs):
    lifetimes = train(*args, **kwargs)
    phi = lifetimes.input_means['phi'].at[-1, 0].set(np.nan)
    return lifetimes._replace(input_means={**lifetimes.input_means, 'phi': phi})

  monkeypatch.setattr(train_agents, 'train_agents', diverging)
  _, by_name = evaluate(calls, {
      'trained': Variant(eta),
      'held': Variant(eta, held='phi', held_of='trained')})
  phi = np.array(by_name['trained'][2].input_means['phi'])
  phi[-1, 0] = np.nan
  held = rule_vector.unravel(CONFIG.rule, by_name['held'][1])
  np.testing.assert_allclose(held['lpg/phi/~/linear_1']['b'],
                             [np.nanmean(phi)], rtol=1e-5)
