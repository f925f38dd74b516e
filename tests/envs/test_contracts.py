"""Every environment keeps dm_env's contract, and works under JAX's `vmap`."""

import dataclasses

from absl.testing import absltest
import dm_env
from dm_env import test_utils
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.envs import delayed_chain
from lpg_distributed.envs import dm_env_adapter
from lpg_distributed.envs import suite

# One of each family.
FAMILIES = ('tabular_sparse', 'random_small_sparse', 'chain_short_noisy',
            'chain_state_distraction', 'survival_chain', 'balance',
            'random_mdp', 'random_mdp_features', 'random_grids',
            'random_grids_planes')


class _Contract(test_utils.EnvironmentTestMixin):
  name: str
  seed = 0

  def make_object_under_test(self):
    return dm_env_adapter.DmEnv(suite.load(self.name), self.seed)

  def make_action_sequence(self):
    """Over all actions, and over the ends of several episodes."""
    num_actions = self.environment.action_spec().num_values
    for i in range(160):
      yield np.int32(i % num_actions)


class TabularGridTest(_Contract, absltest.TestCase):
  name = 'tabular_sparse'


class RandomGridTest(_Contract, absltest.TestCase):
  name = 'random_small_sparse'
  seed = 1


class ChainTest(_Contract, absltest.TestCase):
  name = 'chain_short_noisy'


class DistractionTest(_Contract, absltest.TestCase):
  name = 'chain_state_distraction'


def make_grid(num_actions, name='random_small_sparse'):
  """Returns an adapter of a lifetime that has `num_actions` actions."""
  for seed in range(50):
    adapter = dm_env_adapter.DmEnv(suite.load(name), seed)
    if adapter.action_spec().num_values == num_actions:
      return adapter
  raise AssertionError('no such lifetime')


@pytest.mark.parametrize('num_actions', [9, 18])
def test_actions_that_do_not_exist_are_refused(num_actions):
  adapter = make_grid(num_actions)
  np.testing.assert_array_equal(adapter.action_mask,
                                np.arange(18) < num_actions)
  assert bool(adapter.params.collects_by_action) == (num_actions == 18)
  adapter.reset()
  adapter.step(num_actions - 1)
  for action in (-1, num_actions):
    with pytest.raises(ValueError, match='allowed: a whole number from 0 to '
                       f'{num_actions - 1}'):
      adapter.step(action)


@pytest.mark.parametrize('again', ['step', 'reset'])
def test_the_step_after_last_begins_the_next_episode(again):
  """LAST and the next FIRST show the same; three episodes of 50 steps."""
  adapter = make_grid(18)
  first = adapter.reset()
  observations = []
  for _ in range(3):
    for t in range(50):
      last = adapter.step(4)
      assert last.last() == (t == 49)
      assert last.discount == (0. if t == 49 else 1.) and last.reward == 0.
    first = adapter.reset() if again == 'reset' else adapter.step(4)
    assert first.first()
    np.testing.assert_array_equal(first.observation, last.observation)
    observations.append(first.observation)
  assert not np.array_equal(observations[0], observations[1])
  # In the middle of an episode, reset starts another one.
  adapter.step(4)
  assert adapter.reset().first()
  assert not any(adapter.step(4).last() for _ in range(49))


def test_the_action_that_is_shown_as_right_is_rewarded():
  adapter = dm_env_adapter.DmEnv(suite.load('chain_short'), 3)
  timestep, returns = adapter.reset(), []
  for _ in range(300):
    if timestep.first():
      assert timestep.observation in (0, 1)
      action = int(timestep.observation)
    timestep = adapter.step(action)
    if timestep.last():
      returns.append(timestep.reward)
  assert len(returns) >= 9 and set(returns) == {1.}


def test_equal_seeds_give_equal_timesteps():
  def stream(seed):
    adapter = dm_env_adapter.DmEnv(suite.load('random_small_sparse'), seed)
    return [adapter.step(i % 9) for i in range(120)]
  same, other = stream(5), stream(6)
  for a, b in zip(same, stream(5)):
    assert a.step_type == b.step_type and a.reward == b.reward
    np.testing.assert_array_equal(a.observation, b.observation)
  assert any(not np.array_equal(a.observation, b.observation)
             for a, b in zip(same, other))


class SurvivalChainTest(_Contract, absltest.TestCase):
  name = 'survival_chain'


class RandomMdpTest(_Contract, absltest.TestCase):
  name = 'random_mdp'


class FeaturesTest(_Contract, absltest.TestCase):
  name = 'random_mdp_features'


class RandomGridsTest(_Contract, absltest.TestCase):
  name = 'random_grids'


class RandomPlanesTest(_Contract, absltest.TestCase):
  name = 'random_grids_planes'


class BalanceTest(_Contract, absltest.TestCase):
  name = 'balance'


TRACES = []


@dataclasses.dataclass(frozen=True)
class CountingChain(delayed_chain.DelayedChain):
  """Counts how often it is traced."""

  def step(self, *args):
    TRACES.append(self.name)
    return delayed_chain.DelayedChain.step(self, *args)


def test_adapters_share_compiled_functions():
  """Across steps, lifetimes and equal environments: one trace in all."""
  for seed in range(3):
    environment = CountingChain('counted', suite.SETTINGS['chain_short'])
    adapter = dm_env_adapter.DmEnv(environment, seed)
    for i in range(40):
      adapter.step(i % 2)
  assert TRACES == ['counted']


def test_the_step_limit_ends_an_episode_as_termination():
  """dm_env calls it termination if the last discount is 0."""
  adapter = make_grid(18)
  adapter.reset()
  last = [adapter.step(4) for _ in range(50)][-1]
  assert last.step_type is dm_env.StepType.LAST and last.discount == 0.


@pytest.mark.parametrize('name', suite.ALL)
def test_shapes_and_dtypes(name):
  """They are fixed, not weak, and those of the specs; also under `vmap`."""
  environment = suite.load(name)
  spec = environment.observation_spec()
  key = jax.random.PRNGKey(0)
  params = jax.eval_shape(environment.init_params, key)
  mask = jax.eval_shape(environment.action_mask, params)
  assert mask.shape == (environment.action_spec().num_values,)
  assert mask.dtype == bool
  state, observation = jax.eval_shape(environment.reset, params, key)
  action = jax.ShapeDtypeStruct((), jnp.int32)
  midway = jax.eval_shape(environment.reset_midway, params, key)
  stepped = jax.eval_shape(environment.step, params, state, action, key)
  new_state, timestep = stepped
  like = lambda tree: jax.tree_util.tree_map(
      lambda x: (x.shape, x.dtype, x.weak_type), tree)
  assert like(new_state) == like(state) == like(midway[0])
  assert not any(x.weak_type for x in jax.tree_util.tree_leaves(
      (params, state, midway, stepped)))
  for seen in (observation, midway[1], timestep.observation):
    assert seen.shape == spec.shape and seen.dtype == spec.dtype
  for number in (timestep.reward, timestep.discount):
    assert number.shape == () and number.dtype == jnp.float32

  batch = lambda tree, num: jax.tree_util.tree_map(
      lambda x: jax.ShapeDtypeStruct((num,) + x.shape, x.dtype), tree)
  keys = jax.random.split(key, 3)
  batched = jax.eval_shape(
      jax.vmap(environment.step, (None, 0, 0, 0)), params, batch(state, 3),
      batch(action, 3), keys)
  assert like(batched) == like(batch(stepped, 3))
  lifetimes = jax.eval_shape(
      jax.vmap(jax.vmap(environment.step, (None, 0, 0, 0))), batch(params, 2),
      batch(batch(state, 3), 2), batch(batch(action, 3), 2),
      jnp.stack([keys, keys]))
  assert like(lifetimes) == like(batch(batch(stepped, 3), 2))


@pytest.mark.parametrize('name', FAMILIES)
def test_step_is_traced_once_and_vmap_equals_single_steps(name):
  environment = suite.load(name)
  spec = environment.observation_spec()
  traces = []

  def step(params, state, action, key):
    traces.append(1)
    return environment.step(params, state, action, key)

  one_by_one = jax.jit(step)
  batched = jax.jit(jax.vmap(environment.step, (None, 0, 0, 0)))
  params = jax.jit(environment.init_params)(jax.random.PRNGKey(1))
  num_actions = int(environment.action_mask(params).sum())
  reset = jax.jit(jax.vmap(environment.reset_midway, (None, 0)))
  state, _ = reset(params, jax.random.split(jax.random.PRNGKey(2), 4))
  to_numpy = lambda tree: jax.tree_util.tree_map(np.asarray, tree)
  params, state = to_numpy((params, state))
  rng = np.random.default_rng(0)
  ends = 0
  for t in range(30):
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(10 + t), 4))
    actions = rng.integers(0, num_actions, 4).astype(np.int32)
    result = to_numpy(batched(params, state, actions, keys))
    for i in range(4):
      own = jax.tree_util.tree_map(lambda x, i=i: x[i], state)
      alone = to_numpy(one_by_one(params, own, actions[i], keys[i]))
      again = to_numpy(one_by_one(params, own, actions[i], keys[i]))
      for a, b, c in zip(*map(jax.tree_util.tree_leaves,
                              (result, alone, again))):
        # XLA adds the real numbers of `balance` in another order.
        np.testing.assert_allclose(
            a[i], b, rtol=0., atol=1e-6 if name == 'balance' else 0.)
        np.testing.assert_array_equal(b, c)
      spec.validate(alone[1].observation)
    state = result[0]
    ends += int((result[1].discount == 0).sum())
  assert len(traces) == 1
  assert ends >= 2


def test_other_keys_give_other_lifetimes_and_first_states():
  """The first states of parallel environments differ; so do lifetimes."""
  environment = suite.load('tabular_dense')
  keys = jax.random.split(jax.random.PRNGKey(0), 256)
  params = jax.jit(jax.vmap(environment.init_params))(keys)
  assert len(np.unique(params.object_cells, axis=0)) == 256
  one = jax.tree_util.tree_map(lambda x: x[0], params)
  state, _ = jax.jit(jax.vmap(environment.reset, (None, 0)))(one, keys)
  assert len(np.unique(state.cell)) > 80  # Of 117 free cells.
