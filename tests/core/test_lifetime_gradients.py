"""Each lifetime's gradient is clipped on its own."""

import jax
import numpy as np
import pytest

from lpg_distributed.core import lifetime
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_vector
from tests.core.lifetime_testing import break_lifetime
from tests.core.lifetime_testing import K
from tests.core.lifetime_testing import Kind
from tests.core.lifetime_testing import L
from tests.core.lifetime_testing import make_config
from tests.core.lifetime_testing import map_slots


@pytest.fixture(scope='module', params=['chain_short', pytest.param(
    'chain_state_distraction', marks=pytest.mark.long)])
def kind(request):
  return Kind(request.param)


def compute_separate_gradients(kind, state, meta_step):
  """[L, P]: the gradient of each lifetime, computed without the others."""
  functions = lifetime.make_kind(kind.config, kind.environment)
  gradient = jax.jit(jax.grad(
      lambda eta, task, progress, keys: meta_gradient.window_loss(
          rule_vector.unravel(kind.config.rule, eta), functions,
          kind.config, task, progress, keys)[0]))
  key = jax.random.fold_in(jax.random.fold_in(
      jax.random.PRNGKey(0), 0), meta_step)
  keys = jax.random.split(key, L * (K + 2)).reshape(L, K + 2, -1)
  take = lambda slot: map_slots(
      lambda x, axis: np.take(x, [slot], axis), state)
  return np.stack([gradient(
      kind.eta, take(i).task, take(i).progress, keys[i:i + 1, 2:])
                   for i in range(L)])


@pytest.mark.pinned
@pytest.mark.parametrize('chunk', [1, 3])
def test_each_lifetimes_gradient_is_clipped_on_its_own(
    kind, monkeypatch, chunk):
  states, _ = kind.run(1, first_slot=1, kind_lifetimes=2 * L)
  plain, after, metrics = kind.step(states[-1], 1)
  alone = compute_separate_gradients(kind, states[-1], 1)
  np.testing.assert_allclose(plain, alone.sum(axis=0), rtol=1e-3,
                             atol=1e-5 * np.abs(alone).max())
  norms = np.linalg.norm(alone, axis=1)
  limit = float(np.median(norms))
  assert norms.min() < limit < norms.max()

  monkeypatch.setattr(lifetime, 'chunk_size', lambda *args: chunk)
  limited = Kind(kind.environment, max_lifetime_gradient_norm=limit)
  gradient, limited_after, limited_metrics = limited.step(states[-1], 1)
  expected = alone * np.minimum(1., limit / norms)[:, None]
  np.testing.assert_allclose(gradient, expected.sum(axis=0), rtol=1e-3,
                             atol=1e-5 * np.abs(expected).max())
  # The limit does not change the agents.
  jax.tree_util.tree_map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
      (limited_after, limited_metrics), (after, metrics))


def test_a_gradient_that_is_not_finite_counts_as_zero():
  limit = 1e-6  # Below all norms, and the agents do not depend on it.
  limited = Kind('chain_short', max_lifetime_gradient_norm=limit)
  states, _ = limited.run(1, first_slot=1, kind_lifetimes=2 * L)
  alone = compute_separate_gradients(limited, states[-1], 1)
  norms = np.linalg.norm(alone, axis=1)
  assert norms.min() > 2 * limit
  state = break_lifetime(states[-1], 'nan')
  gradient, _, metrics = limited.step(state, 1)
  expected = np.delete(alone / norms[:, None], 2, 0).sum(0) * limit
  assert metrics.not_finite[2]
  np.testing.assert_allclose(gradient, expected, rtol=1e-3,
                             atol=1e-5 * np.abs(expected).max())


def test_a_cpu_computes_limited_gradients_one_by_one():
  config = lambda limit: make_config(
      'chain_short', max_lifetime_gradient_norm=limit)
  assert lifetime.chunk_size(config(0.), 'chain_short', 6) == 6
  assert lifetime.chunk_size(config(1.), 'chain_short', 6) == 1
