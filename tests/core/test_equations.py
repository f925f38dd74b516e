"""The functions that the documents name for equations exist and are run."""

import ast
import importlib
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core import bandit
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib
from tests.core import test_meta_gradient as windows

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CORE = _ROOT / 'lpg_distributed' / 'core'


def _rows():
  """Maps each equation to the functions that fidelity.md names for it."""
  text = (_ROOT / 'docs' / 'fidelity.md').read_text(encoding='utf-8')
  rows = {}
  for number, where in re.findall(r'^\| \((\d)\) [^|]*\| ([^|]*) \|', text,
                                  re.MULTILINE):
    files = {pathlib.Path(path).stem: (_ROOT / 'docs' / path).resolve()
             for path in re.findall(r'\]\(([^)]*\.py)\)', where)}
    rows[int(number)] = [(files[module], name) for module, name in
                         re.findall(r'`(\w+)\.(\w+)`', where)
                         if module in files and name != 'py']
  return rows


def _function(path, name):
  module = path.relative_to(_ROOT).with_suffix('').as_posix()
  return getattr(importlib.import_module(module.replace('/', '.')), name)


def _called(*runs):
  """Code objects of all functions that `runs` call."""
  found = set()

  def note(frame, event, argument):
    del argument
    if event == 'call':
      found.add(frame.f_code)

  sys.setprofile(note)
  try:
    for run in runs:
      run()
  finally:
    sys.setprofile(None)
  return found


def meta_train():
  """Traces a shard's meta-step, as a worker does."""
  config = windows.make_config('chain_short')
  shard = lifetime.make_shard(config, 'chain_short', windows.NUM_LIFETIMES)
  ids = lifetime.ShardId(*map(np.int32, (0, 0, 0, windows.NUM_LIFETIMES)))
  jax.eval_shape(
      shard.advance, jnp.zeros(rule_vector.size(config.rule)), jnp.zeros(9),
      shard.empty(), ids, np.int32(0))


def meta_test():
  """Traces an update of one agent."""
  settings = settings_lib.AgentSettings()
  rule = registry.make('lpg', windows.RULE)
  network = lambda outputs: agent_networks.Network(
      init=lambda key: jnp.zeros((3, outputs)), apply=lambda w, x: x @ w)
  learner = learner_lib.make_learner(network, 2, settings, rule)

  def learn(key):
    state = learner.init(key)
    trajectory = types.Trajectory(
        jnp.ones((5, 2, 3)), jnp.zeros((4, 2), jnp.int32), jnp.ones((4, 2)),
        jnp.ones((4, 2)))
    output = learner.evaluate(state.theta, trajectory.observation)
    return learner.learn(rule.init(key), settings.hyper(), state,
                         base.Experience(trajectory, output))[0]

  jax.eval_shape(learn, jax.random.PRNGKey(0))


def run_bandit():
  config = config_lib.BanditConfig()
  bandit.log_probabilities(bandit.init(3, config), config)


ROWS = _rows()
_TRAINED, _TESTED, _BANDIT = {1, 2, 3, 4}, {2, 7}, {5, 6}


def test_all_equations_are_listed():
  assert sorted(ROWS) == [1, 2, 3, 4, 5, 6, 7]
  assert all(ROWS.values())


@pytest.mark.parametrize('run, numbers', [
    (meta_train, _TRAINED), (meta_test, _TESTED), (run_bandit, _BANDIT)],
    ids=['meta_train', 'meta_test', 'bandit'])
def test_functions_named_for_equations_are_called(run, numbers):
  called = _called(run)
  for number in sorted(numbers):
    for path, name in ROWS[number]:
      assert _function(path, name).__code__ in called, (number, path, name)


@pytest.mark.parametrize('number', [2, 4, 7])
def test_an_equation_is_implemented_once(number):
  """Only the named function's docstring claims to be the equation."""
  found = []
  for path in _CORE.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.FunctionDef):
        title = (ast.get_docstring(node) or '').partition('\n')[0]
        if f'({number})' in title and re.search('negated|minus', title):
          found.append((path.resolve(), node.name))
  assert found == ROWS[number][:1]
