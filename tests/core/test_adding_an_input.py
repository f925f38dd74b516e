"""Adding an input of the rule is one row of `rule_inputs.INPUTS`."""

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Adds a row to the source of `rule_inputs` before anything imports it.
_CODE = '''
import importlib.util, pathlib, sys
import jax
jax.config.update('jax_disable_most_optimizations', True)
import jax.numpy as jnp
import numpy as np
from lpg_distributed import core
name = 'lpg_distributed.core.rule_inputs'
spec = importlib.util.find_spec(name)
source = pathlib.Path(spec.origin).read_text()
row = "    'square': lambda e, hyper: jnp.square(e.trajectory.reward),\\n"
before, end, after = source.partition('\\n}\\n')
core.rule_inputs = sys.modules[name] = module = importlib.util.module_from_spec(
    spec)
exec(compile(before + '\\n' + row + end[1:] + after, spec.origin, 'exec'),
     module.__dict__)

from benchmarks import work
import lpg_distributed as lpg
from lpg_distributed.analysis import evaluation
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from tests.core import test_meta_gradient as windows

config = windows.make_config('chain_short')
kind, task, progress, keys, eta = windows.make_window(config)
size = config.rule.lstm_size
assert eta['lpg/lstm/linear']['w'].shape == (7 + size, 4 * size)
assert work._RULE_INPUTS == 7
gradient = jax.jit(jax.grad(lambda eta: meta_gradient.window_loss(
    eta, kind, config, task, progress, keys)[0]))(eta)
rows = np.abs(gradient['lpg/lstm/linear']['w']).max(axis=1)
assert np.all(rows[[0, 2, 3, 4]] > 0.), rows

vector = rule_vector.ravel(eta)
lifetimes = train_agents.train_agents(config, 'chain_short', vector,
                                      jax.random.PRNGKey(0), 2, jnp.zeros(9), 1)
assert set(lifetimes.input_means) == {
    'phi', 'reward', 'discount_t', 'gamma', 'action_probability', 'square'}
held = rule_vector.unravel(
    config.rule, evaluation.hold(config.rule, vector, 'square', 1.))
assert not np.any(held['lpg/lstm/linear']['w'][4])

shape = (3, 2)
targets = lpg.apply_rule(
    lpg.Rule(np.asarray(vector), config.rule), reward=np.ones(shape),
    discount=np.ones(shape), gamma=0.9, action_probability=np.ones(shape),
    y=np.full((4, 2, 5), 0.2), square=np.ones(shape))
assert targets.pi_hat.shape == shape
print('all inputs by name')
'''


@pytest.mark.pinned
def test_an_added_input_reaches_training_ablations_and_apply_rule():
  result = subprocess.run(
      [sys.executable, '-c', _CODE], cwd=_ROOT, text=True, capture_output=True,
      timeout=300, check=False, env={**os.environ, 'PYTHONPATH': str(_ROOT)})
  assert result.returncode == 0, result.stderr
  assert result.stdout.strip() == 'all inputs by name'
