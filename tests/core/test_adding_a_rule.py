"""A rule added by one file and one row is meta-trained and meta-tested."""

import dataclasses

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import local_loop
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from lpg_distributed.store import eta_file
from tests.core import test_meta_gradient as windows


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
