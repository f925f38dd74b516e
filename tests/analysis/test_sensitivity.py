"""Derivatives of a rule against finite differences, and the command."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import rule_derivatives
from lpg_distributed.analysis import stored
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from tests.analysis import run_testing
from tests.launch import command_testing

T, N, M = 5, 3, 4
RULE = config_lib.RuleConfig(num_predictions=M, embedding_size=4, lstm_size=5)
AGE_RULE = dataclasses.replace(RULE, sees_age=True)
V_RULE = config_lib.RuleConfig(embedding_size=4, lstm_size=5, kind='lpg_v')


def make_case(rule, seed=0):
  rng = np.random.default_rng(seed)
  eta = jax.tree_util.tree_map(
      lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
      rule_vector.init(rule, jax.random.PRNGKey(seed)))
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  discount = np.ones((T, N), np.float32)
  discount[2, 0] = discount[0, 1] = 0.
  y = (numbers(T + 1, N, 1) if rule.kind == 'lpg_v' else
       np.float32(rng.dirichlet(np.ones(M), (T + 1, N))))
  return eta, rule_inputs.RuleInput(
      numbers(T, N), discount, np.full((T, N), 0.99, np.float32),
      np.float32(rng.random((T, N))), y,
      *([np.full((T, N), 0.3, np.float32)] * 2 if rule.sees_age else ()))


def connected(discount, t, s, n):
  return all(discount[i, n] > 0. for i in range(t, min(s, T)))


@pytest.mark.parametrize('rule', [RULE, V_RULE, AGE_RULE],
                         ids=['lpg', 'lpg_v', 'age'])
def test_kernels_by_finite_differences(rule):
  eta, inputs = make_case(rule)
  found = jax.device_get(jax.jit(functools.partial(
      rule_derivatives.kernels, rule))(rule_vector.ravel(eta), inputs))
  outputs = jax.jit(lambda inputs: rule_derivatives._outputs(rule, eta, inputs))
  h = 1e-2
  ages = {'age': 5, 'lifetime': 6} if rule.sees_age else {}
  assert {name.partition('/')[2] for name in found} == {
      'reward', 'probability', 'phi', *ages}
  deviations = {'age': 12. ** -0.5, 'lifetime': 1.}
  for name, field in {'reward': 0, 'probability': 3, **ages}.items():
    sums = {'pi_hat': np.zeros(T), 'y_hat': np.zeros(T)}
    counts = np.zeros(T)
    for s in range(T):
      shift = np.zeros((T, N), np.float32)
      shift[s] = h
      up, down = (outputs(inputs._replace(**{
          inputs._fields[field]: inputs[field] + sign * shift}))
                  for sign in (1., -1.))
      pi, y = ((np.asarray(a, np.float64) - b) / (2 * h)
               for a, b in zip(up, down))
      for t in range(s + 1):
        for n in range(N):
          if connected(inputs.discount_t, t, s, n):
            counts[s - t] += 1
            sums['pi_hat'][s - t] += pi[t, n, 0]
            sums['y_hat'][s - t] += np.linalg.norm(y[t, n])
    for output, total in sums.items():
      np.testing.assert_allclose(found[f'{output}/{name}'], total / counts,
                                 rtol=0.02, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(
        found[f'deviation/{name}'],
        deviations.get(name, np.std(inputs[field])), rtol=1e-5)


def test_the_direction_changes_phi_by_its_length():
  """To first order."""
  eta, inputs = make_case(RULE)
  direction = rule_derivatives._phi_direction(eta, jnp.asarray(inputs.y))
  h = 1e-3
  before, after = (lpg_network.embed(eta, inputs.y + sign * h * direction)
                   for sign in (-1., 1.))
  moved = (np.asarray(after) - np.asarray(before)) / (2 * h)
  dead = np.all(np.asarray(direction) == 0., axis=-1)
  assert dead.mean() < 0.5
  np.testing.assert_allclose(moved[~dead], 1., rtol=0.05)


def test_the_kernel_of_phi_sums_to_the_derivative_of_its_bias():
  """The bias shifts phi at all steps together."""
  eta, inputs = make_case(RULE)
  inputs = inputs._replace(discount_t=np.ones((T, N), np.float32))
  direction = rule_derivatives._phi_direction(eta, jnp.asarray(inputs.y))
  alive = np.any(np.asarray(direction) != 0., axis=-1).all(axis=0)
  one = jax.tree_util.tree_map(
      lambda x: x[:, alive][:, :1], inputs)  # a trajectory without dead units
  assert one.reward.shape == (T, 1)
  found = jax.device_get(rule_derivatives.kernels(
      RULE, rule_vector.ravel(eta), one))
  bias = lambda b: rule_derivatives._outputs(RULE, {
      **eta, 'lpg/phi/~/linear_1': {
          **eta['lpg/phi/~/linear_1'],
          'b': eta['lpg/phi/~/linear_1']['b'] + b}}, one)[0]
  total = jax.jvp(bias, (jnp.float32(0.),), (jnp.float32(1.),))[1]
  # Sum over t and over s >= t: the kernel times how many pairs each lag has.
  pairs = np.array([sum(1 for t in range(T) if t + k <= T)
                    for k in range(T + 1)])
  np.testing.assert_allclose(np.sum(found['pi_hat/phi'] * pairs),
                             np.sum(total), rtol=1e-3)


def test_the_command_stores_and_draws_results(tmp_path, capsys):
  run_dir = run_testing.store(tmp_path / 'run')
  results = str(tmp_path / 'a.json')
  assert command_testing.call('sensitivity', [
      f'--run=mine={run_dir}', f'--results={results}', '--updates=3',
      '--num_lifetimes=2', '--snapshots=4']) == 0
  out = capsys.readouterr().out
  assert '| pi_hat |' in out and '| y_hat |' in out
  gae = out.partition('| meta-step | lambda |')[2].splitlines()[2:6]
  assert [row.split(' | ')[0] for row in gae] == ['| untrained', '| 2', '| 4',
                                                  '| 5']
  _, data = stored.load(results, 'sensitivity')
  assert data['meta_steps'] == [0, 2, 4, 5]
  assert np.shape(data['pi_hat/reward']) == (4, 8)
  assert np.shape(data['y_hat/phi']) == (4, 9)
  assert data['pi_hat/reward'][1] != data['pi_hat/reward'][2]
  picture = (tmp_path / 'a.svg').read_bytes()
  assert command_testing.call('sensitivity', [f'--results={results}',
                           f'--figure={tmp_path}/b.svg']) == 0
  assert (tmp_path / 'b.svg').read_bytes() == picture
  capsys.readouterr()
  assert command_testing.call('sensitivity',
      [f'--run={run_dir}', '--environment=chess', f'--results={results}']) == 2
  assert 'chess' in capsys.readouterr().err
