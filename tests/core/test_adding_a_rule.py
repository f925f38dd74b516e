"""A rule added by one file and one row is meta-trained and meta-tested."""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import local_loop
from lpg_distributed.analysis import policy_evaluation
from lpg_distributed.analysis import sensitivity
from lpg_distributed.analysis import sources
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import lpg as lpg_rule
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from lpg_distributed.store import eta_file
from tests.core import test_meta_gradient as windows
from tests.core import toy_rule


@pytest.fixture(autouse=True)
def _register_toy_rule(monkeypatch):
  """Adds the toy rule's row to the registry."""
  monkeypatch.setitem(registry.RULES, 'toy',
                      registry.Row('tests.core.toy_rule'))


def make_config():
  config = windows.make_config('chain_short')
  return dataclasses.replace(
      config, rule=dataclasses.replace(config.rule, kind='toy'),
      run=config_lib.RunConfig(meta_steps=2),
      evaluator=config_lib.EvaluatorConfig(enabled=False))


def test_eta_of_an_added_rule_has_a_meta_gradient():
  config = make_config()
  kind, task, progress, keys, eta = windows.make_window(config)
  assert rule_vector.size(config.rule) == 4
  gradient = jax.jit(jax.grad(lambda eta: meta_gradient.window_loss(
      eta, kind, config, task, progress, keys)[0]))(eta)
  assert np.all(np.isfinite(gradient['weights']))
  assert np.all(gradient['weights'] != 0.)


@pytest.mark.pinned
def test_an_added_rule_is_meta_trained_and_meta_tested(tmp_path):
  config = make_config()
  local_loop.run(config, str(tmp_path / 'run'), None,
                 watch=lambda status: None)
  saved = eta_file.load(str(tmp_path / 'run' / 'eta.npz'))
  assert saved.rule.kind == 'toy'
  drawn = rule_vector.ravel(
      rule_vector.init(config.rule, jax.random.PRNGKey(config.run.seed)))
  assert np.all(saved.eta != drawn)
  job = jobs.make_job(
      'module/tests.meta_testing.session_testing:chain', 'toy',
      eta=str(tmp_path / 'run' / 'eta.npz'), env_steps=400, num_envs=4)
  assert session.run(job, str(tmp_path / 'job'))
  rows = results.read(str(tmp_path / 'job')).rows
  assert rows[-1]['env_steps'] >= 400
  assert rows[-1]['pi_hat_square'] > 0.


def _widened(config, network=lpg_network.apply):
  """The paper's rule with one more input of its LSTM."""
  rule = lpg_rule.make(config, network)

  def init(key):
    eta = rule.init(key)
    lstm = eta['lpg/lstm/linear']
    return {**eta, 'lpg/lstm/linear': {
        **lstm, 'w': jnp.insert(lstm['w'], 6, 0., axis=0)}}

  return rule._replace(init=init)


@pytest.fixture
def wide(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tests.core.wide_rule',
                      types.SimpleNamespace(make=_widened))
  monkeypatch.setitem(registry.RULES, 'wide',
                      registry.Row('tests.core.wide_rule'))
  return dataclasses.replace(make_config().rule, kind='wide')


def _own_network(config, network=lpg_network.apply):
  """The paper's rule with the toy rule's network, and y_hat = y."""
  rule = lpg_rule.make(config, network)
  toy = toy_rule.make(config)

  def compute_targets(eta, experience, hyper):
    targets, metrics = toy.compute_targets(eta, experience, hyper)
    return targets._replace(
        y_hat_logits=experience.output.y_logits[:-1]), metrics

  return rule._replace(init=toy.init, compute_targets=compute_targets)


def test_another_network_need_not_say_that_it_cannot_be_widened(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tests.core.own_network_rule',
                      types.SimpleNamespace(make=_own_network))
  monkeypatch.setitem(registry.RULES, 'own_network',
                      registry.Row('tests.core.own_network_rule'))
  config = make_config()
  config = dataclasses.replace(config, rule=dataclasses.replace(
      config.rule, kind='own_network', num_predictions=3))
  kind, task, progress, keys, eta = windows.make_window(config)
  assert kind.rule.widen is not None
  gradient = jax.jit(jax.grad(lambda eta: meta_gradient.window_loss(
      eta, kind, config, task, progress, keys)[0]))(eta)
  assert np.all(np.isfinite(gradient['weights']))


def test_a_rule_with_a_network_of_its_own_always_sees_all_inputs():
  rule = dataclasses.replace(make_config().rule, sees_policy=False)
  for call in (lambda: rule_vector.size(rule),
               lambda: rule_vector.unravel(rule, np.zeros(4))):
    with pytest.raises(config_lib.ConfigError,
                       match='rule.sees_policy is false, .*kind toy'):
      call()


def test_what_needs_the_network_of_the_paper_names_it(wide, tmp_path):
  toy = make_config().rule
  rule_vector.require_lpg_network(wide, 'x')
  for rule, same_inputs in ((toy, False), (toy, True), (wide, True)):
    with pytest.raises(config_lib.ConfigError, match='^x is not possible'):
      rule_vector.require_lpg_network(rule, 'x', same_inputs)
  config = make_config()
  for kind in ('lpg', 'lpg_v', 'lpg_vector'):
    for sees_policy in (True, False):
      rule_vector.require_lpg_network(dataclasses.replace(
          config.rule, kind=kind, sees_policy=sees_policy), 'x', True)
  path = str(tmp_path / 'wide.npz')
  eta_file.save(path, np.zeros(rule_vector.size(wide)), wide)
  with pytest.raises(config_lib.ConfigError,
                     match='^sensitivity is not possible .* kind wide'):
    sensitivity.compute(path)
  with pytest.raises(config_lib.ConfigError,
                     match='^apply_rule is not possible .* kind wide'):
    lpg.apply_rule(lpg.load_rule(path), *(np.zeros(3),) * 4,
                   y=np.zeros((4, wide.num_predictions)))
  path = str(tmp_path / 'toy.npz')
  eta_file.save(path, np.zeros(4), toy)
  with pytest.raises(config_lib.ConfigError,
                     match='^sensitivity is not possible .* kind toy'):
    sensitivity.compute(path)
  with pytest.raises(config_lib.ConfigError, match=r'^phi\(y\) is not'):
    policy_evaluation.phi(sources.read(path), np.zeros((2, 4)))
