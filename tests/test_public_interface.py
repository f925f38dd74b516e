"""`import lpg_distributed as lpg`: what the README promises of it."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed import types
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry
from lpg_distributed.store import eta_file

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SMALL = config_lib.RuleConfig(num_predictions=5, lstm_size=8)
_TINY = ('environments=chain_short', 'rule.lstm_size=8',
         'meta.num_lifetimes=2', 'meta.num_envs=4', 'run.meta_steps=2',
         'run.num_workers=1', 'evaluator.enabled=false')


@pytest.fixture(scope='module', name='rule')
def _rule():
  return lpg.create_rule(seed=3, config=_SMALL)


def _trajectory(batch=(4,), num_steps=6, num_predictions=5):
  rng = np.random.default_rng(0)
  shape = (num_steps, *batch)
  y = rng.random((num_steps + 1, *batch, num_predictions))
  return {'reward': rng.normal(size=shape),
          'discount': (rng.random(shape) < 0.8).astype(float),
          'gamma': 0.99,
          'action_probability': rng.random(shape),
          'y': y / y.sum(-1, keepdims=True)}


def _python(code: str, cwd: pathlib.Path) -> str:
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True,
      env={'PYTHONPATH': str(_ROOT), 'PATH': '', 'HOME': str(cwd),
           'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': '1'},
      timeout=500, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def test_import_brings_neither_jax_nor_tensorflow(tmp_path):
  _python('import sys, lpg_distributed as lpg\n'
          'dir(lpg)\n'
          'assert not {"jax", "tensorflow", "launchpad"} & set(sys.modules)',
          tmp_path)


def test_using_a_rule_needs_no_launchpad_and_no_reverb(tmp_path):
  _python('import sys, lpg_distributed as lpg\n'
          'lpg.create_rule(); lpg.load_environment("chain_short")\n'
          'assert not {"launchpad", "reverb", "tensorflow", "ale_py"}'
          ' & set(sys.modules)', tmp_path)


def test_names():
  for name in lpg.__all__:
    assert callable(getattr(lpg, name)), name
    assert getattr(lpg, name).__doc__, name
    assert name in dir(lpg)
  with pytest.raises(AttributeError, match='no_such_name'):
    lpg.no_such_name  # noqa: B018


def _examples(name):
  text = (_ROOT / name).read_text(encoding='utf-8')
  return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


def test_the_readmes_example_runs(tmp_path):
  pytest.importorskip('gymnax')
  (block,) = _examples('README.md')
  returns = _python(block, tmp_path).strip('[] \n').split()
  assert len(returns) == 3
  assert all(float(x) > 0.9 for x in returns)


@pytest.mark.long
def test_the_guides_examples_run(tmp_path):
  first, second, _, third, fourth, fifth = _examples('docs/python.md')
  printed = _python(first + '\nprint(rule.info)', tmp_path)
  returns, shapes, info = printed.splitlines()[-3:]
  assert len(returns.strip('[]').split()) == 4
  assert shapes == '(20, 16) (20, 16, 30)'
  assert info == "{'meta_step': 2}"
  assert (tmp_path / 'runs' / 'example' / 'eta.npz').exists()
  assert _python(second, tmp_path).splitlines()[-1] == '(2,)'
  assert _python(third, tmp_path).splitlines()[-1] == '(18,)'
  if importlib.util.find_spec('gymnax'):
    assert _python(fourth, tmp_path).splitlines()[-1] in ('0', '1', '2')
  if importlib.util.find_spec('gymnasium'):
    assert float(_python(fifth, tmp_path).splitlines()[-1]) >= 1.


def test_the_guides_own_loss_is_that_of_meta_testing():
  page = {}
  exec(_examples('docs/python.md')[2], page)
  config, (action, reward, discount) = page['rule'].config, page['steps']
  rule = registry.make('lpg', config)
  eta = rule_vector.unravel(config, page['rule'].eta)
  hyper = base.UpdateHyperparameters(0., 0.5, 0.995, 0., 0., 0.)
  # Other episodes, actions and rewards than the page has.
  action, discount = action.at[3].set(2), discount.at[7].set(0.)
  reward = reward.at[5].set(-1.)

  def loss(logits, y_logits, f):
    output = types.AgentOutput(logits, y_logits, None, f)
    targets, _ = rule.compute_targets(eta, base.Experience(
        types.Trajectory(None, action, reward, discount), output), hyper)
    now = types.AgentOutput(logits[:-1], y_logits[:-1], None, f[:-1])
    return jnp.mean(rule.loss(now, action, jax.lax.stop_gradient(targets),
                              hyper))

  of = lambda loss, *steps: jax.value_and_grad(loss, (0, 1, 2))(
      *page['outputs'], *steps)
  chex.assert_trees_all_close(
      of(page['loss'], action, reward, discount), of(loss), rtol=1e-4,
      atol=1e-6)


def test_rule_is_that_of_a_run_with_the_same_seed():
  config = lpg.load_config('demo', 'run.seed=7')
  np.testing.assert_array_equal(
      lpg.create_rule(7, config.rule).eta, meta_update.init(config).eta)


def test_rule_of_the_papers_size():
  rule = lpg.create_rule()
  # phi 30-16-1, LSTM of 6 inputs and 256 units, heads of 1 and 30.
  size = (30 * 16 + 16 + 16 + 1) + ((6 + 256) * 1024 + 1024) + 257 * 31
  assert rule.eta.shape == (size,)
  assert rule.eta.dtype == np.float32


def test_save_and_load(tmp_path, rule):
  path = str(tmp_path / 'rule.npz')
  lpg.save_rule(path, rule._replace(info={'a': 1, 'b': 2}), b=3)
  loaded = lpg.load_rule(path)
  np.testing.assert_array_equal(loaded.eta, rule.eta)
  assert loaded.config == _SMALL
  assert loaded.info == {'a': 1, 'b': 3}


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: b'', lambda data: b'{}'])
def test_load_refuses_what_is_no_rule(tmp_path, rule, damage):
  path = tmp_path / 'rule.npz'
  lpg.save_rule(str(path), rule)
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(errors.UserError, match='rule.npz') as caught:
    lpg.load_rule(str(path))
  assert '\n' not in str(caught.value)


def test_load_names_a_missing_file(tmp_path):
  with pytest.raises(eta_file.EtaFileError, match='no file .*nothing.npz'):
    lpg.load_rule(str(tmp_path / 'nothing.npz'))


@pytest.mark.parametrize('batch', [(), (4,), (2, 3)])
def test_apply_is_the_rule(rule, batch):
  trajectory = _trajectory(batch)
  targets = lpg.apply_rule(rule, **trajectory)
  assert targets.pi_hat.shape == (6, *batch)
  assert targets.y_hat_logits.shape == (6, *batch, 5)
  flat = {k: np.reshape(v, (len(v), -1) + np.shape(v)[1 + len(batch):])
          for k, v in trajectory.items() if k != 'gamma'}
  flat['discount_t'] = flat.pop('discount')
  expected = lpg_network.apply_reference(
      rule_vector.unravel(_SMALL, jnp.asarray(rule.eta)), _SMALL,
      rule_inputs.RuleInput(
          gamma=np.full_like(flat['reward'], 0.99), **flat))
  np.testing.assert_allclose(targets.pi_hat.ravel(), expected.pi_hat.ravel(),
                             rtol=1e-4, atol=1e-5)


def test_apply_is_compiled_once(rule, monkeypatch):
  """For each shape: a loop over it would fill the memory with programs."""
  shapes = []
  apply = lpg_network.apply

  def traced(eta, inputs):
    shapes.append(inputs.reward.shape)
    return apply(eta, inputs)

  monkeypatch.setattr(lpg_network, 'apply', traced)
  trajectory = _trajectory((2, 1))
  found = [lpg.apply_rule(rule._replace(eta=scale * rule.eta), **trajectory)
           for scale in (1., 2., 2.)]
  assert shapes == [(6, 2, 1)]
  assert not np.array_equal(found[0].pi_hat, found[1].pi_hat)
  np.testing.assert_array_equal(found[1].pi_hat, found[2].pi_hat)


def test_apply_is_pure_and_differentiable_in_eta(rule):
  trajectory = _trajectory()

  def total(eta):
    targets = lpg.apply_rule(rule._replace(eta=eta), **trajectory)
    return jnp.sum(targets.pi_hat)

  gradient = jax.jit(jax.grad(total))(jnp.asarray(rule.eta))
  assert np.isfinite(gradient).all() and np.abs(gradient).sum() > 0


@pytest.mark.parametrize('name, value', [
    ('discount', np.ones((6, 3))),
    ('action_probability', np.ones((5, 4))),
    ('y', np.ones((6, 4, 5))),  # T and not T+1
    ('y', np.ones((7, 4, 6))),  # another M
    ('gamma', np.ones((3,))),
    ('reward', 1.),
])
def test_apply_names_a_wrong_shape(rule, name, value):
  with pytest.raises(errors.UserError, match='shape') as caught:
    lpg.apply_rule(rule, **{**_trajectory(), name: value})
  assert '\n' not in str(caught.value)


def test_environment_by_name():
  environment = lpg.load_environment('random_small')
  params = environment.init_params(jax.random.PRNGKey(0))
  _, observation = environment.reset(params, jax.random.PRNGKey(1))
  assert observation.shape == environment.observation_spec().shape
  with pytest.raises(ValueError, match='did you mean random_small'):
    lpg.load_environment('random_smal')


def test_config():
  config = lpg.load_config('laptop', 'meta.num_updates=3')
  assert config.meta.num_updates == 3
  with pytest.raises(errors.UserError, match='preset'):
    lpg.load_config('huge')
  with pytest.raises(errors.UserError, match='num_updates'):
    lpg.load_config('laptop', 'meta.num_updates=0')


def test_meta_train_goes_on_where_it_stopped(tmp_path):
  whole = lpg.meta_train(lpg.load_config('demo', *_TINY),
                         str(tmp_path / 'whole'))
  parts = str(tmp_path / 'parts')
  first = lpg.meta_train(
      lpg.load_config('demo', *_TINY, 'run.meta_steps=1'), parts)
  assert first.info['meta_step'] == 1
  record = json.loads((tmp_path / 'parts' / 'versions.json').read_text())
  assert record['device'] == jax.local_devices()[0].device_kind
  assert record['lpg-distributed'] == lpg.__version__
  seen = []
  second = lpg.meta_train(lpg.load_config('demo', *_TINY), parts, seen.append)
  assert second.info['meta_step'] == whole.info['meta_step'] == 2
  assert seen[-1]['meta_step'] == 2
  np.testing.assert_array_equal(second.eta, whole.eta)
  assert np.abs(second.eta - first.eta).max() > 0
  again = lpg.meta_train(lpg.load_config('demo', *_TINY), parts)  # Nothing.
  np.testing.assert_array_equal(again.eta, whole.eta)
  with pytest.raises(errors.UserError, match='meta.num_envs'):
    lpg.meta_train(lpg.load_config('demo', *_TINY, 'meta.num_envs=5'), parts)


def test_train_agents(rule):
  train = lambda **kwargs: lpg.train_agents(rule, 'chain_short', **{
      'learning_rate': 40., 'kl_cost': 0.5, 'num_agents': 3, 'num_envs': 4,
      'updates': 2, **kwargs})
  agents = train()
  assert agents.final_return.shape == (3,)
  assert agents.episode_return.shape == (2, 3)
  np.testing.assert_array_equal(agents.hyper.learning_rate, [40.] * 3)
  np.testing.assert_array_equal(agents.hyper.kl_cost, [0.5] * 3)
  np.testing.assert_allclose(agents.hyper.gamma, [0.995] * 3)
  np.testing.assert_array_equal(train().theta, agents.theta)
  assert np.any(train(seed=1).theta != agents.theta)


_CHAIN = 'module/tests.meta_testing.session_testing:chain'


def test_meta_test(rule, tmp_path):
  """Agents in an environment by identifier, with any rule."""
  test = lambda rule, **kwargs: lpg.meta_test(rule, _CHAIN, **{
      'seeds': (3, 4), 'env_steps': 60, 'num_envs': 2, 'trajectory_steps': 10,
      **kwargs})
  agents = test(rule, directory=str(tmp_path / 'job'))
  assert agents.final_returns.shape == (2,) and len(agents.curves) == 2
  np.testing.assert_array_equal(agents.curves[1].env_steps, [20, 40, 60])
  assert (tmp_path / 'job' / 'result.jsonl').exists()
  # What is done is read; kept or not, it is the same.
  for again in (test(rule, directory=agents.directory), test(rule)):
    for x, y in zip(again.curves, agents.curves):
      np.testing.assert_array_equal(x.returns, y.returns)
  alone = test('a2c', seeds=(0,))
  assert alone.directory is None and list(alone.policies) == [0]
  name = 'chain_and_grid'
  by_name, loaded = (test(r, seeds=(0,), directory=str(tmp_path / 'again'))
                     for r in (name, lpg.load_rule(name)))
  np.testing.assert_array_equal(by_name.final_returns, loaded.final_returns)
  with pytest.raises(errors.UserError, match='belongs to another job'):
    test('a2c', directory=agents.directory)
  with pytest.raises(errors.UserError, match="no rule 'reinforce'"):
    test('reinforce')
  with pytest.raises(errors.UserError, match="'rate=1' is no setting"):
    test(rule, rate=1)


def test_a_rule_without_predictions(tmp_path):
  config = config_lib.RuleConfig(lstm_size=2, kind='lpg_v')
  rule = lpg.create_rule(config=config)
  lpg.save_rule(str(tmp_path / 'eta.npz'), rule)
  assert lpg.load_rule(str(tmp_path / 'eta.npz')).config == config
  agents = lpg.meta_test(rule, _CHAIN, env_steps=40, num_envs=2)
  assert agents.curves[0].env_steps[-1] >= 40
  with pytest.raises(errors.UserError, match='of kind lpg_v, which has no y'):
    lpg.apply_rule(rule, **_trajectory())


def test_agents_learn_by_the_rule_that_is_given():
  """With a handmade rule: pi_hat is the reward, which solves short chains."""
  config = config_lib.RuleConfig(num_predictions=2, lstm_size=1)
  eta = jax.tree_util.tree_map(
      jnp.zeros_like, rule_vector.init(config, jax.random.PRNGKey(0)))
  lstm = eta['lpg/lstm/linear']
  # Rows of w: six inputs, hidden. Gates i, g, f, o. The cell keeps the sum of
  # later rewards (input and output gates open, forget gate open): a return.
  w = lstm['w'].at[0, 1].set(0.5)
  b = lstm['b'].at[jnp.array([0, 2, 3])].set(10.)
  eta['lpg/lstm/linear'] = {'w': w, 'b': b}
  eta['lpg/pi_hat'] = {**eta['lpg/pi_hat'], 'w': jnp.ones((1, 1))}
  rule = lpg.Rule(np.asarray(rule_vector.ravel(eta)), config)
  agents = lpg.train_agents(
      rule, 'chain_short', learning_rate=80., kl_cost=0., num_agents=8,
      num_envs=16, updates=300)
  assert isinstance(agents, train_agents.Lifetimes)
  short = agents.num_episodes.sum(axis=0) > 300 * 16  # over an episode each
  assert short.any()
  assert agents.final_return[short].min() > 0.8


@pytest.mark.parametrize('change, match', [
    ({'learning_rate': 0.}, 'learning_rate is 0.0; allowed: a number > 0'),
    ({'learning_rate': float('nan')}, 'learning_rate is nan'),
    ({'kl_cost': -1.}, 'kl_cost is -1.0'),
    ({'gamma': 2.}, 'gamma is 2.0'),
    ({'updates': 0}, 'updates'),
    ({'num_agents': 0}, 'num_agents is 0'),
    ({'num_envs': 0}, 'num_envs'),
])
def test_train_agents_refuses(rule, change, match):
  with pytest.raises(errors.UserError, match=match) as caught:
    lpg.train_agents(rule, 'chain_short', **{
        'learning_rate': 40., 'kl_cost': 0.5, **change})
  assert '\n' not in str(caught.value)


def test_train_agents_needs_an_environment_that_exists(rule):
  with pytest.raises(ValueError, match='there is no environment'):
    lpg.train_agents(rule, 'chain', learning_rate=1., kl_cost=1.)


@pytest.mark.parametrize('kind', ['lpg_v', 'lpg_vector'])
def test_agents_learn_by_rules_of_other_kinds(kind):
  rule = lpg.create_rule(0, config_lib.RuleConfig(3, 2, 2, kind))
  found = lpg.train_agents(rule, 'chain_short', learning_rate=1., kl_cost=0.1,
                           num_agents=2, num_envs=3, updates=2)
  assert found.final_return.shape == (2,)
