"""Files of policies are loaded as saved, or refused in one line."""

import json

from dm_env import specs
import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import policy as policy_lib
from lpg_distributed.envs import suite
from lpg_distributed.store import policy_file
from lpg_distributed.store import tree_file

KEY = jax.random.PRNGKey(1)
PIXELS = specs.BoundedArray((3, 3, 2), np.uint8, 0, 255)
ENDLESS = specs.BoundedArray((4,), np.float32, -np.inf, np.inf)
FORMS = {
    'table': policy_lib.Form('x', specs.DiscreteArray(5), 3, 7,
                             config_lib.AgentConfig()),
    'convolution': policy_lib.Form('x', PIXELS, 3, 4, config_lib.AgentConfig(
        conv=(2,), dense=(4,))),
    'vector': policy_lib.Form('x', ENDLESS, 2, 2),
    'planes': policy_lib.Form('x', PIXELS, 2, 3),
    'index': policy_lib.Form('x', specs.DiscreteArray(5), 2, 3),
    'scalar': policy_lib.Form('x', specs.Array((), np.float64), 2, 3)}


def make(form, **fields):
  return policy_lib.Policy(form, policy_lib.make_network(form).init(KEY),
                           **fields)


def observe(form, *batch):
  rng = np.random.default_rng(0)
  spec = form.observation_spec
  if isinstance(spec, specs.DiscreteArray):
    return rng.integers(spec.num_values, size=batch)
  return rng.integers(0, 9, (*batch, *spec.shape)).astype(spec.dtype)


@pytest.mark.parametrize('name', FORMS)
def test_policies_are_loaded_as_saved(tmp_path, name):
  path = str(tmp_path / 'policy.npz')
  policy = make(FORMS[name], info={'a': 1})
  policy_file.save(path, policy, b=2)
  loaded = policy_file.load(path)
  assert loaded.info == {'a': 1, 'b': 2} and loaded.env_params is None
  assert loaded.form._replace(observation_spec=None) == (
      policy.form._replace(observation_spec=None))
  jax.tree_util.tree_map(np.testing.assert_array_equal, loaded.theta,
                         policy.theta)
  for batch in ((), (6,), (2, 3)):
    observation = observe(policy.form, *batch)
    found = loaded.probabilities(observation)
    assert found.shape == (*batch, policy.form.num_actions)
    np.testing.assert_array_equal(found, policy.probabilities(observation))
    np.testing.assert_allclose(found.sum(axis=-1), 1., rtol=1e-5)
    assert loaded(observation).shape == batch


@pytest.mark.parametrize('name', ['tabular_dense', *suite.BEYOND_THE_PAPER])
def test_layouts_are_loaded_as_saved(name, tmp_path):
  environment = suite.load(name)
  params = environment.init_params(KEY)
  num_actions = int(environment.action_spec().num_values)
  form = policy_lib.Form(name, environment.observation_spec(), num_actions,
                         num_actions + 2, config_lib.ALL_AGENTS[name])
  path = str(tmp_path / 'policy.npz')
  policy_file.save(path, make(form, env_params=params))
  loaded = policy_file.load(path).env_params
  assert type(loaded) is type(params)
  jax.tree_util.tree_map(np.testing.assert_array_equal, loaded, params)


def test_actions_by_hand():
  """The most probable action, samples, and masked actions."""
  form = FORMS['table']._replace(num_outputs=3)
  theta = np.log(np.array([[1., 2., 7.]] * 5, np.float32))
  policy = policy_lib.Policy(form, theta)
  np.testing.assert_allclose(policy.probabilities(2), [.1, .2, .7], rtol=1e-5)
  assert policy(2) == 2 and policy(np.zeros((2, 2), int)).tolist() == [
      [2, 2], [2, 2]]
  actions = np.asarray(policy(np.zeros(4000, int), KEY))
  shares = np.bincount(actions, minlength=3) / 4000.
  assert np.abs(shares - [.1, .2, .7]).max() < 5 * (.25 / 4000) ** .5
  masked = policy_lib.Policy(form, theta, np.array([True, True, False]))
  np.testing.assert_allclose(masked.probabilities(2), [1 / 3, 2 / 3, 0.],
                             rtol=1e-5)
  assert masked(2) == 1
  assert set(np.asarray(masked(np.zeros(500, int), KEY))) == {0, 1}


def test_policies_work_under_jit_and_vmap():
  policy = make(FORMS['vector'])
  observation = observe(policy.form, 4)
  keys = jax.random.split(KEY, 4)
  compiled = jax.jit(jax.vmap(policy))(observation, keys)
  np.testing.assert_array_equal(
      compiled, [policy(x, key) for x, key in zip(observation, keys)])


def test_observations_of_other_shapes_are_refused():
  for shape in ((5,), (), (4, 1)):
    with pytest.raises(policy_lib.PolicyError, match=r'allowed: \(4,\)'):
      make(FORMS['vector'])(np.zeros(shape))


@pytest.fixture(name='stored')
def _stored(tmp_path):
  path = tmp_path / 'policy.npz'
  policy_file.save(str(path), make(FORMS['vector']))
  return path


def refused(path):
  with pytest.raises(policy_file.PolicyFileError, match='policy.npz') as info:
    policy_file.load(str(path))
  assert '\n' not in str(info.value)
  return str(info.value)


def rewrite(path, **changes):
  with tree_file.open_tree(str(path)) as saved:
    header = saved.read_header()
    leaves = {name: saved.read(name, spec) for name, spec
              in saved.specs.items() if name != tree_file.HEADER}
  path.write_bytes(tree_file.pack(leaves, {**header, **changes}))


OBSERVATION = {'shape': [4], 'dtype': 'float32', 'bounds': None}


@pytest.mark.parametrize('changes, match', [
    ({'format': 'lpg-agent-1'}, "allowed: 'lpg-policy-1'"),
    ({'num_actions': 0}, 'num_actions is 0'),
    ({'num_actions': 1 << 40}, 'num_actions'),
    ({'num_outputs': 1}, 'num_outputs is 1'),
    ({'num_outputs': 3}, 'needed'),
    ({'environment': 3}, 'environment'),
    ({'observation': 3}, ''),
    ({'observation': {}}, 'shape'),
    ({'observation': {**OBSERVATION, 'shape': [1 << 20, 1 << 20]}}, 'up to'),
    ({'observation': {**OBSERVATION, 'shape': [-4]}}, 'shape is -4'),
    ({'observation': {**OBSERVATION, 'shape': [4] * 99}}, 'shape'),
    ({'observation': {**OBSERVATION, 'dtype': 'O'}}, 'type object'),
    ({'observation': {**OBSERVATION, 'dtype': 'no'}}, ''),
    ({'observation': {**OBSERVATION, 'bounds': [1]}}, ''),
    ({'observation': {**OBSERVATION, 'bounds': [1, 0]}}, ''),
    ({'observation': {'num_values': 1 << 40}}, 'num_values'),
    ({'agent': {'conv': [], 'dense': [1 << 22, 1 << 22]}}, 'bytes'),
    ({'agent': {'conv': [], 'dense': [1] * 99}}, 'dense'),
    ({'agent': {'conv': [], 'dense': []}}, 'a table needs'),
    ({'agent': {'dense': []}}, 'conv'),
    ({'agent': 3}, ''),
    ({'info': 3}, ''),
])
def test_invalid_headers_are_refused(stored, changes, match):
  rewrite(stored, **changes)
  assert match in refused(stored)


def test_no_code_is_imported(stored):
  """The module that the environment's name has is not imported."""
  rewrite(stored, environment='module/no_such_module:f')
  assert policy_file.load(str(stored)).form.environment.startswith('module/')


def test_damaged_files_are_refused(stored):
  data = stored.read_bytes()
  for damaged in (b'', data[:200], json.dumps({}).encode()):
    stored.write_bytes(damaged)
    refused(stored)
  stored.unlink()
  assert 'no file' in refused(stored)


def test_numbers_that_are_not_finite_are_refused(stored):
  policy = make(FORMS['vector'])
  policy.theta = jax.tree_util.tree_map(lambda x: x * np.nan, policy.theta)
  policy_file.save(str(stored), policy)
  assert 'not finite' in refused(stored)


def test_a_policy_without_actions_is_refused(stored):
  policy_file.save(str(stored), make(FORMS['vector'],
                                     action_mask=np.zeros(2, bool)))
  assert 'no action' in refused(stored)
