"""The rule of docs/extending.md is a rule, and agents learn by it."""

import pathlib
import re
import sys
import types as python_types

import numpy as np
import pytest

from lpg_distributed.core.update_rules import registry
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from tests.core import rule_testing
from tests.meta_testing import session_testing

_PAGE = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'extending.md'


@pytest.fixture(name='rule_module')
def _rule_module(monkeypatch):
  """The page's module under the page's name, with the page's row."""
  page = _PAGE.read_text(encoding='utf-8')
  module = python_types.ModuleType('lpg_distributed.core.update_rules.td')
  exec(re.search(r'```python\n(.*?)```', page, re.DOTALL)[1], module.__dict__)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  row = re.search(r"'td': (Row\(.*\)),", page)[1]
  monkeypatch.setitem(registry.RULES, 'td', eval(row, vars(registry)))
  return module


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
