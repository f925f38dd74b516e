"""The kernels of GAE against RLax's own derivatives, and fits by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import light_imports
from lpg_distributed.analysis import gae_fit

rlax = light_imports.import_rlax()
K, GAMMA = 7, 0.98


@pytest.mark.parametrize('td_lambda', [0., 0.4, 1.])
def test_kernels_are_those_of_rlax(td_lambda):
  def first_advantage(reward, values):
    return rlax.truncated_generalized_advantage_estimation(
        reward, jnp.full(K, GAMMA), td_lambda, values)[0]

  rng = np.random.default_rng(0)
  expected = jax.grad(first_advantage, (0, 1))(
      jnp.asarray(rng.normal(size=K)), jnp.asarray(rng.normal(size=K + 1)))
  reward, phi = gae_fit.kernels(td_lambda, GAMMA, K)
  # The last value bootstraps: its weight is that of all later steps.
  np.testing.assert_allclose(reward, expected[0], rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(phi[:-1], expected[1][:-1], rtol=1e-5, atol=1e-7)


def test_a_gae_is_found_whatever_its_scale_and_the_sign_of_its_values():
  reward, phi = gae_fit.kernels(0.37, GAMMA, 20)
  for factor in (2., -0.5):
    fit = gae_fit.fit(3. * reward, factor * phi, GAMMA)
    assert fit.td_lambda == pytest.approx(0.37)
    assert fit.phi_factor == pytest.approx(factor)
    assert fit.reward_explained == pytest.approx(1.)
    assert fit.phi_explained == pytest.approx(1.)
    np.testing.assert_allclose(fit.reward, 3. * reward)
    np.testing.assert_allclose(fit.phi, factor * phi)


def test_kernels_unlike_gae_are_not_explained():
  reward = np.ones(20)  # weighs all rewards equally,
  phi = np.full(21, 0.5)  # and adds values up
  fit = gae_fit.fit(reward, phi, GAMMA)
  assert fit.reward_explained > 0.9 and fit.phi_explained < 0.1
  assert gae_fit.fit(reward, np.zeros(21), GAMMA).phi_explained <= 1.
