"""The code of docs/own_environment.md runs; broken ones do not."""

import json
import os
import re
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import local_loop
from lpg_distributed import presets
from lpg_distributed.core import environment_check
from lpg_distributed.envs import names
from lpg_distributed.envs import protocol
from lpg_distributed.envs import registry
from lpg_distributed.envs import user_module
from lpg_distributed.launch.cluster import own_modules
from lpg_distributed.meta_testing import compiled_loop
from lpg_distributed.store import eta_file

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAME = 'module/my_grid:Maze'
SMALL = ('evaluator.enabled=false', 'meta.num_lifetimes=2', 'meta.num_envs=4',
         'meta.num_updates=2', 'meta.trajectory_steps=5', 'rule.lstm_size=4',
         'run.meta_steps=2', 'run.num_workers=1')


def _text():
  with open(os.path.join(ROOT, 'docs', 'own_environment.md'),
            encoding='utf-8') as f:
    return f.read()


def _page():
  return re.findall(r'```(\w+)\n(.*?)```', _text(), re.DOTALL)


((_, MODULE), (_, AGENTS), (_, NETWORK), (_, GRID), (_, GRID_AGENTS),
 (_, GRID_COMMAND), (_, COMMAND), (_, IN_PYTHON), (_, AFTERWARDS), (_, SCALED),
 (_, CHECK), (_, SIMULATOR)) = _page()


@pytest.fixture(name='here')
def _here(tmp_path, monkeypatch):
  """A directory with the page's files, as the current one."""
  (tmp_path / 'my_grid.py').write_text(MODULE)
  (tmp_path / 'agents.json').write_text(AGENTS)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  yield tmp_path
  sys.modules.pop('my_grid', None)


def test_the_page_checks_an_environment(here):
  exec(compile(CHECK, 'page', 'exec'), {})  # pylint: disable=exec-used


def test_a_simulator_in_python_is_an_environment(here):
  gymnasium = pytest.importorskip('gymnasium')
  (here / 'python_cart_pole.py').write_text(SIMULATOR)
  environment = registry.load_trainable('module/python_cart_pole:CartPole')
  protocol.check(environment)
  single = gymnasium.make('CartPole-v1').unwrapped
  body, _ = single.reset(seed=3)
  state, step = (jnp.asarray(body), jnp.int32(0)), jax.jit(environment.step)
  params = environment.init_params(jax.random.PRNGKey(0))
  fell = False
  while not fell:
    body, _, fell, _, _ = single.step(1)
    state, timestep = step(params, state, jnp.int32(1), jax.random.PRNGKey(0))
    assert timestep.discount == 1. - fell
    if not fell:
      np.testing.assert_allclose(timestep.observation, body, atol=1e-5)
  sys.modules.pop('python_cart_pole')


def test_the_page_is_short():
  code = MODULE + IN_PYTHON
  assert sum(bool(line.strip()) for line in code.splitlines()) < 30


def _launch(launch_type, directory):
  words = shlex.split(COMMAND)
  assert words[:2] == ['lpg', 'meta-train']
  return subprocess.run(
      [sys.executable, '-m', 'lpg_distributed.launch.commands.meta_train',
       *words[2:], *(f'--set={field}' for field in SMALL),
       f'--launch_type={launch_type}', f'--run_dir=run_{launch_type}',
       '--noevaluate'], cwd=directory, capture_output=True, text=True,
      timeout=600, check=False, env={**os.environ, 'PYTHONPATH': ROOT})


def test_the_page_says_the_fields_of_a_row_and_their_defaults():
  rows = re.findall(r'^\| `(\w+)` \| `?([^|`]+)`?(?:;[^|]*)? \|', _text(),
                    re.MULTILINE)
  row = config_lib.AgentConfig()
  fields = {name: json.loads(json.dumps(value))
            for name, value in vars(row).items()}
  assert {name: json.loads(text) for name, text in rows
          if name in fields} == fields


def test_the_page_says_how_long_200_updates_are():
  text = _text()
  for name, preset in presets.PRESETS.items():
    config = preset()
    steps = config.meta.trajectory_steps * config.meta.num_envs
    (row,) = re.findall(rf'^\| `{name}` \|.*$', text, re.MULTILINE)
    assert f'= {steps:,} |' in row
    assert f'{round(200 * steps / config.meta.lifetime_scale):,} |' in row


def test_the_page_names_the_directory_of_the_run():
  words = shlex.split(COMMAND)
  assert '--run_dir=runs/maze' in words
  assert 'runs/maze/eta.npz' in AFTERWARDS


def _eta_by_command(launch_type, directory):
  done = _launch(launch_type, directory)
  assert done.returncode == 0, done.stderr
  saved = eta_file.load(str(directory / f'run_{launch_type}' / 'eta.npz'))
  assert saved.info['meta_step'] == 2
  return saved.eta


@pytest.mark.long
def test_the_pages_command_in_processes(here):
  """The same rule as in one process, bit for bit."""
  np.testing.assert_array_equal(_eta_by_command('embedded', here),
                                _eta_by_command('local_mp', here))
  with open(here / 'run_embedded' / 'config.json', encoding='utf-8') as f:
    assert NAME in json.dumps(json.load(f))


def _rule_in_python():
  settings = ', '.join(map(repr, ('demo', *SMALL)))
  program = IN_PYTHON.replace("'demo'", settings)
  assert program != IN_PYTHON
  scope = {}
  exec(program, scope)  # pylint: disable=exec-used
  return scope['rule']


def test_the_page_begins_a_run_in_python(here, monkeypatch):
  """Without the run itself; examples/own_environment.py has a whole one."""
  def save(config, run_dir, checkpoint, watch):
    del checkpoint, watch
    assert config.environments == ('object/Maze', 'chain_short')
    assert config.agents['object/Maze'].lifetime_env_steps == 128000
    eta_file.save(os.path.join(run_dir, 'eta.npz'),
                  lpg.create_rule(0, config.rule).eta, config.rule,
                  meta_step=config.run.meta_steps)

  monkeypatch.setattr(local_loop, 'run', save)
  rule = _rule_in_python()
  assert rule.info['meta_step'] == 2
  assert (here / 'runs' / 'maze_python' / 'config.json').exists()


@pytest.mark.long
def test_the_page_in_python(here):
  del here
  rule = _rule_in_python()
  assert rule.info['meta_step'] == 2
  first = lpg.create_rule(0, rule.config)
  assert np.all(np.isfinite(rule.eta)) and np.any(rule.eta != first.eta)


def test_the_pages_grid_can_be_trained_on(here):
  (here / 'tiny.py').write_text(GRID)
  config = config_io.merge(config_lib.Config(), json.loads(GRID_AGENTS))
  config = config_io.apply_overrides(config, [
      'meta.num_lifetimes=4', *re.findall(r'--set=(\S+)', GRID_COMMAND)])
  environment_check.check(config)
  assert config.lifetimes_per_environment() == (3, 1)
  with pytest.raises(ValueError, match='masks some of its actions'):
    compiled_loop.check(registry.load_trainable('module/tiny:Tiny'))
  sys.modules.pop('tiny')


def test_a_class_of_gymnax_with_other_rewards(here):
  pytest.importorskip('gymnax')
  (here / 'scaled.py').write_text(SCALED)
  environment = registry.load_trainable('module/scaled:MountainCar')
  protocol.check(environment)
  key = jax.random.PRNGKey(0)
  params = environment.init_params(key)
  state, _ = environment.reset(params, key)
  _, timestep = environment.step(params, state, jnp.int32(1), key)
  np.testing.assert_allclose(timestep.reward, -0.1)
  sys.modules.pop('scaled')


def test_the_page_has_a_row_for_a_network():
  config_io.merge(config_lib.Config(), json.loads(NETWORK))


def _refused(config):
  with pytest.raises(config_lib.ConfigError) as info:
    environment_check.check(config)
  assert '\n' not in str(info.value)
  return str(info.value)


def _config(name, **row):
  return config_io.merge(config_lib.Config(), {
      'environments': [name], 'agents': {name: row}})


class Good:
  """Four states in a ring; the episode ends after a whole round."""
  num_actions, num_states = 2, 4

  def reset(self, params, key):
    del params, key
    return jnp.int32(0), jnp.int32(0)

  def step(self, params, state, action, key):
    del params, key
    state = (state + action) % 4
    return state, (state, jnp.float32(action),
                   jnp.where(state == 0, 0., 1.))


class NoReset:
  num_actions = 2

  def step(self, params, state, action, key):
    return state, (state, 0., 1.)


class NoActions(Good):
  num_actions = 1


class DoneForDiscount(Good):

  def step(self, params, state, action, key):
    state, (observation, reward, discount) = super().step(
        params, state, action, key)
    return state, (observation, reward, discount == 0.)


class HalfDiscount(Good):

  def step(self, params, state, action, key):
    state, timestep = super().step(params, state, action, key)
    return state, (*timestep[:2], 0.5 * timestep[2])


class WholeReward(Good):

  def step(self, params, state, action, key):
    state, timestep = super().step(params, state, action, key)
    return state, (timestep[0], action, timestep[2])


class OutOfRange(Good):
  num_states = 3


class PythonIf(Good):

  def step(self, params, state, action, key):
    return super().step(params, state + 1 if action else state, 1, key)


class OtherState(Good):

  def step(self, params, state, action, key):
    state, timestep = super().step(params, state, action, key)
    return jnp.float32(state), timestep


class NumpyRandom(Good):

  def step(self, params, state, action, key):
    state, timestep = super().step(params, state, action, key)
    return state, (timestep[0], jnp.float32(np.random.rand()), timestep[2])


class FourParts(Good):

  def step(self, params, state, action, key):
    state, timestep = super().step(params, state, action, key)
    return state, (*timestep, {})


class NotANumber(Good):

  def step(self, params, state, action, key):
    state, timestep = super().step(params, state, action, key)
    return state, (timestep[0], jnp.log(timestep[1] - 1.), timestep[2])


class NoStates(Good):
  num_states = property()


class TypedKey(Good):

  def reset(self, params, key):
    return jax.random.wrap_key_data(key), jnp.int32(0)

  def step(self, params, state, action, key):
    return state, (jnp.int32(0), jnp.float32(0.), jnp.float32(1.))


@pytest.mark.parametrize('made, message', [
    (NoActions, 'has 1 actions; allowed: 2 or more'),
    (DoneForDiscount, 'gives d_t as bool[]; allowed: float32[], 1 where'),
    (HalfDiscount, 'gives d_t from 0 to 0.5; allowed: 1 where the episode'),
    (WholeReward, 'gives reward as int32[]; allowed: float32[]'),
    (OutOfRange, 'observes state 0 to 3; its specification allows 0 to 2'),
    (PythonIf, 'step cannot be compiled by JAX (TracerBoolConversionError'),
    (OtherState, 'is int32[] after reset and float32[] after step'),
    (NumpyRandom, 'the same key gives different episodes'),
    (FourParts, 'step gives something else; allowed: state, (observation'),
    (NotANumber, 'gives a reward that is not finite'),
    (NoStates, 'observes one whole number and has no num_states'),
    (TypedKey, 'a part of its state is key<'),
])
def test_what_breaks_the_protocol(made, message):
  with pytest.raises(ValueError) as info:
    protocol.check(protocol.complete(made(), made.__name__))
  assert message in str(info.value) and '\n' not in str(info.value)
  assert str(info.value).startswith(made.__name__)


def test_what_keeps_the_protocol():
  environment = protocol.complete(Good(), 'good')
  protocol.check(environment)
  states = jax.vmap(environment.reset_midway, (None, 0))(
      environment.init_params(None),
      jax.random.split(jax.random.PRNGKey(0), 50))[1]
  assert set(np.asarray(states)) == {0, 1, 2, 3}


def test_refused_at_the_start(here):
  """By the command, in one line, before there is a run."""
  broken = MODULE.replace('jnp.where(ended, 0., 1.)', 'ended')
  assert broken != MODULE
  (here / 'my_grid.py').write_text(broken)
  done = _launch('local_mp', here)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == (
      f'error: {NAME}: step gives d_t as bool[]; allowed: float32[], 1 where '
      'the episode goes on and 0 where it has ended')
  assert not (here / 'run_local_mp').exists()


def test_refusals_of_names_and_agents(here):
  del here
  assert 'a table needs a state index' in _refused(
      _config('gymnax/CartPole-v1'))
  assert "module 'no_such' cannot be imported" in _refused(
      _config('module/no_such:Maze'))
  assert "has no function 'Labyrinth'" in _refused(
      _config('module/my_grid:Labyrinth'))
  assert 'was an object in another Python process' in _refused(
      _config('object/Elsewhere'))
  assert _refused(_config('module/json:dumps')).startswith(
      'module/json:dumps raised TypeError')
  environment_check.check(_config(NAME))
  environment_check.check(_config('gymnax/CartPole-v1', dense=[8],
                                  optimiser='adam'))
  with pytest.raises(ValueError, match='has no reset'):
    lpg.meta_train(presets.demo(), 'never', environments=[NoReset()])


def test_names():
  assert names.is_own(NAME) and names.is_own('object/Maze')
  assert not names.is_own('chain_short')
  for name in ('module/my_grid', 'module/', 'module/a-b:C', 'maze'):
    with pytest.raises(config_lib.ConfigError, match='allowed: '):
      config_lib.Config(environments=(name,))
  with pytest.raises(config_lib.ConfigError, match='agents has no entry for '
                     'module/my_grid:Maze; see docs/own_environment.md'):
    config_lib.Config(environments=(NAME,))


def test_overrides_of_an_agent_whose_name_has_dots():
  name = 'module/my.own.grid:Maze'
  config = config_io.apply_overrides(config_lib.Config(), [
      f'environments={name}', f'agents.{name}.kl_costs=0.5',
      'agents.*.learning_rates=3'])
  assert config.agents[name].kl_costs == (0.5,)
  assert config.agents[name].learning_rates == (3.,)
  assert config.agents['chain_short'].learning_rates == (3.,)


def test_objects_are_found_by_name():
  name = registry.register(Good())
  assert name == 'object/Good'
  assert registry.load_trainable(name).action_spec().num_values == 2


def test_the_module_is_copied_with_the_code(here):
  (here / 'out').mkdir()
  own_modules.copy(('chain_short', NAME, 'gymnax/CartPole-v1'),
                   str(here / 'out'))
  assert os.listdir(here / 'out') == ['my_grid.py']
  (here / 'lab' / 'grids').mkdir(parents=True)
  for part in ('lab/__init__.py', 'lab/grids/__init__.py', 'lab/helper.py'):
    (here / part).write_text('')
  own_modules.copy(('module/lab.grids:Maze',), str(here / 'out'))
  assert (here / 'out' / 'lab' / 'helper.py').exists()
  assert user_module.source_to_copy('numpy.random:Maze') is None


@pytest.mark.parametrize('name', [NAME, 'gymnax/CartPole-v1'])
def test_loading_within_a_traced_function(here, name):
  del here

  def reset(key):
    environment = registry.load_trainable(name)
    return environment.reset(environment.init_params(key), key)[1]

  assert jax.eval_shape(reset, jax.random.PRNGKey(0)).shape in ((), (4,))
