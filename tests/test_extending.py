"""The rules of docs/extending.md are rules; names in pages are in the code."""

import inspect
import pathlib
import re
import sys
import textwrap
import types as python_types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.core import lifetime
from lpg_distributed.core import meta_update
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from tests import test_imports
from tests.core import rule_testing
from tests.meta_testing import session_testing

_ROOT = pathlib.Path(test_imports.ROOT)
_PAGE = _ROOT / 'docs' / 'extending.md'


@pytest.mark.parametrize('page', [
    'CONTRIBUTING.md', 'docs/architecture.md', 'docs/extending.md',
    'docs/fidelity.md', 'docs/glossary.md', 'docs/method.md'])
def test_names_in_pages_are_names_in_the_code(page):
  text = (_ROOT / page).read_text(encoding='utf-8')
  blocks = r'```\w*\n.*?```'
  known = set(re.findall(r'\w+', ''.join(
      re.findall(blocks, text, flags=re.DOTALL))))
  sources = [_ROOT / name for name in test_imports.MODULES]
  for path in (*sources, *_ROOT.glob('benchmarks/*.py'),
               *_ROOT.glob('tests/**/*.py')):
    known.update(re.findall(r'\w+', path.read_text(encoding='utf-8')))
    known.add(path.stem)
  prose = re.sub(blocks, '', text, flags=re.DOTALL)
  named = {word for code in re.findall('`([^`]+)`', prose)
           for word in re.findall(r'[A-Za-z]*_\w+|[A-Z][a-z]+[A-Z]\w+', code)}
  assert {word for word in named - known if not word.endswith('_N')} == set()


def _add_rule(monkeypatch, name):
  """The page's module under the page's name, with the page's row."""
  page = _PAGE.read_text(encoding='utf-8')
  package = 'lpg_distributed.core.update_rules'
  module = python_types.ModuleType(f'{package}.{name}')
  block = rf'```python\n(# {package.replace(".", "/")}/{name}\.py\n.*?)```'
  exec(re.search(block, page, re.DOTALL)[1], module.__dict__)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  row = re.search(rf"'{name}': (Row\(.*?\))[,`]", page)[1]
  monkeypatch.setitem(registry.RULES, name, eval(row, vars(registry)))
  return module


def test_one_number_is_a_prediction(monkeypatch):
  _add_rule(monkeypatch, 'lpg_scalar')
  rule = registry.make('lpg_scalar', config_lib.RuleConfig(lstm_size=4))
  experience, hyper = rule_testing.two_steps()
  experience = experience._replace(output=experience.output._replace(
      y_logits=np.array([[[1.]], [[2.]], [[3.]]])))
  targets, _ = rule.compute_targets(
      rule.init(jax.random.PRNGKey(0)), experience, hyper)
  assert targets.y_hat_logits.shape == (2, 1, rule.outputs.num_predictions)
  now = jax.tree_util.tree_map(lambda x: jnp.asarray(x[:-1]), experience.output)
  loss = lambda y_hat: rule.loss(
      now, experience.trajectory.action,
      base.Targets(jnp.zeros((2, 1)), y_hat), hyper)
  # alpha_y is 0.5: 0.5 * (1 - 4)^2 and 0.5 * (2 - 4)^2.
  np.testing.assert_allclose(loss(jnp.full((2, 1, 1), 4.)), [[4.5], [2.]])


@pytest.fixture(name='rule_module')
def _rule_module(monkeypatch):
  return _add_rule(monkeypatch, 'td')


def test_its_targets_are_temporal_differences(rule_module):
  del rule_module
  experience, hyper = rule_testing.two_steps()
  targets, _ = registry.make('td').compute_targets(
      (), experience, hyper)
  # 1 + 0.5 * 5 and, at the end of the episode, 2; minus 3 and 5.
  np.testing.assert_allclose(targets.value, [[3.5], [2.]])
  np.testing.assert_allclose(targets.pi_hat, [[0.5], [-3.]])


def test_agents_learn_by_it(rule_module, tmp_path):
  del rule_module
  job = jobs.make_job(session_testing.HOST, 'td', env_steps=4000, num_envs=8,
                      overrides=['learning_rate=0.02'])
  assert session.run(job, str(tmp_path))
  rows = results.read(str(tmp_path)).rows
  # The optimum is 0.7; an agent that never arrives has -1.9.
  assert rows[-1]['return'] > max(0.3, rows[0]['return'])


# Fields of a rule's configuration, and what the rule then sees of a life.
_OPTIONS = pytest.mark.parametrize('options, seen', [
    ({}, set()), ({'sees_age': True}, {'relative_age', 'log_lifetime'}),
    ({'reward_input': 'normalised'}, {'reward_rms'})],
    ids=['default', 'sees_age', 'normalised'])


def _life_seen(rule, eta, experience, hyper):
  """Names of the parts of a life that change a rule's targets."""
  pi_hat = lambda **changes: rule.compute_targets(eta, experience._replace(
      life=experience.life._replace(**changes)), hyper)[0].pi_hat
  return {name for name, value in experience.life._asdict().items()
          if not np.array_equal(pi_hat(), pi_hat(**{name: value + 1.}))}


def _with_y(num_predictions):
  """Two steps with policies, predictions and a life, and `hyper`."""
  experience, hyper = rule_testing.two_steps()
  rng = np.random.default_rng(0)
  experience = experience._replace(output=experience.output._replace(
      logits=rng.normal(size=(3, 1, 2)),
      y_logits=rng.normal(size=(3, 1, num_predictions))), life=base.Life(
          relative_age=0.5, log_lifetime=7., reward_rms=2.))
  return jax.tree_util.tree_map(jnp.asarray, experience), hyper


@_OPTIONS
def test_one_more_input_begins_as_the_paper_and_is_learned(
    monkeypatch, options, seen):
  _add_rule(monkeypatch, 'lpg_entropy')
  config = config_lib.RuleConfig(num_predictions=3, lstm_size=4, **options)
  paper, own = (registry.make(name, config)
                for name in ('lpg', 'lpg_entropy'))
  experience, hyper = _with_y(3)
  key = jax.random.PRNGKey(0)
  targets = lambda rule, eta: rule.compute_targets(eta, experience, hyper)[0]
  eta = own.init(key)
  chex.assert_trees_all_close(
      targets(own, eta), targets(paper, paper.init(key)), rtol=1e-5)
  assert _life_seen(own, eta, experience, hyper) == seen
  gradient = jax.grad(lambda e: jnp.sum(targets(own, e).pi_hat ** 2))(eta)
  rows = np.abs(gradient['lpg/lstm/linear']['w']).max(axis=1)
  place = 8 if config.sees_age else 6
  assert rows.shape == (place + 1 + 4,) and rows[place] > 0.


@_OPTIONS
def test_attention_sees_what_its_configuration_says(monkeypatch, options, seen):
  _add_rule(monkeypatch, 'lpg_attention')
  rule = registry.make('lpg_attention', config_lib.RuleConfig(
      num_predictions=3, lstm_size=4, **options))
  eta = rule.init(jax.random.PRNGKey(0))
  assert _life_seen(rule, eta, *_with_y(3)) == seen


def test_attention_looks_ahead_within_an_episode(monkeypatch):
  _add_rule(monkeypatch, 'lpg_attention')
  config = config_lib.RuleConfig(num_predictions=3, lstm_size=4)
  rule = registry.make('lpg_attention', config)
  eta = rule.init(jax.random.PRNGKey(0))
  experience, hyper = _with_y(3)
  trajectory = experience.trajectory

  def pi_hat(reward, discount_t):
    targets, _ = rule.compute_targets(eta, experience._replace(
        trajectory=trajectory._replace(
            reward=reward, discount_t=discount_t)), hyper)
    assert targets.y_hat_logits.shape == (2, 1, 3)
    return targets.pi_hat[:, 0]

  goes_on, ended = jnp.ones((2, 1)), jnp.array([[0.], [1.]])
  seen = jax.jacobian(lambda r: pi_hat(r, goes_on))(trajectory.reward)[..., 0]
  assert seen[0, 1] != 0. and seen[1, 0] == 0.
  seen = jax.jacobian(lambda r: pi_hat(r, ended))(trajectory.reward)[..., 0]
  assert seen[0, 1] == 0. and seen[0, 0] != 0. and seen[1, 1] != 0.


def test_evolution_strategies_take_the_place_of_the_gradient(monkeypatch):
  """The page's `together`: another gradient, the same agents after it."""
  page = _PAGE.read_text(encoding='utf-8')
  block = re.search(r'```python\n(def together\(.*?)```', page, re.DOTALL)[1]
  block = block.replace('sigma = 0.1', 'sigma = 10.')  # changes actions
  config = config_io.apply_overrides(presets.demo(), [
      'environments=tabular_dense', 'meta.num_lifetimes=2', 'meta.num_envs=8',
      'meta.num_updates=2', 'meta.trajectory_steps=10', 'rule.lstm_size=4',
      'meta.max_lifetime_gradient_norm=0'])
  shard = lambda: lifetime.make_shard(config, 'tabular_dense', 2)
  arguments = (
      meta_update.init(config).eta, np.zeros(
          len(config.agents['tabular_dense'].arms), np.float32),
      shard().empty(), lifetime.ShardId(*map(jnp.int32, (0, 0, 0, 2))),
      jnp.int32(0))
  first, state, _ = jax.jit(shard().advance)(*arguments)
  source = inspect.getsource(lifetime._window_gradients)
  ours, others = source.index('  def together'), source.index('  max_norm =')
  own = source[:ours] + textwrap.indent(block, '  ') + '\n' + source[others:]
  monkeypatch.setattr(lifetime, '_window_gradients', None)
  exec(own, vars(lifetime))
  second, own_state, _ = jax.jit(shard().advance)(*arguments)
  assert second.shape == first.shape and np.all(np.isfinite(second))
  assert np.any(second != 0.) and not np.allclose(first, second)
  chex.assert_trees_all_close(
      state.progress.theta, own_state.progress.theta, rtol=1e-4)
