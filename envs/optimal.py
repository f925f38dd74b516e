"""Computes reference returns of the training environments.

`python -m lpg_distributed.envs.optimal [NAME ...]` rewrites the entries of
`optimal_returns.json`, or those of the names. Per environment it holds the mean
undiscounted return of an episode under the optimal policy, which knows the step
limit, and under the uniformly random one. Each has its standard error over
layouts or episodes, 0 if it is exact. For grid worlds it holds the mean over
both action spaces, and each by itself.

- Tabular grid worlds, `random_small_sparse` and `random_very_dense` are solved
  exactly by backward induction over `grid_model`.
- Delayed chains are solved by hand.
- Other random grid worlds have too many states. Their optimum is null, and the
  random policy is simulated.
- Kinds beyond the paper: means over lifetimes. Those with few states are solved
  by backward induction over `mdp_model`. In `balance` a policy that never fails
  exists, and the random policy is simulated.
"""

import functools
import itertools
import sys
from typing import Any, NamedTuple, Optional, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed.envs import base
from lpg_distributed.envs import grid_model
from lpg_distributed.envs import grid_world
from lpg_distributed.envs import mdp_model
from lpg_distributed.envs import optimal_returns
from lpg_distributed.envs import random_grids
from lpg_distributed.envs import settings as settings_lib
from lpg_distributed.envs import suite


class Estimate(NamedTuple):
  """A mean and its standard error."""
  mean: float
  error: float


def _estimate(samples: np.ndarray, exact: bool = False) -> Estimate:
  error = 0. if exact else samples.std(ddof=1) / np.sqrt(samples.size)
  return Estimate(float(samples.mean()), float(error))


def draw_layouts(settings: grid_world.GridWorldSettings, num: int,
                 rng: np.random.Generator) -> np.ndarray:
  """Draws `num` layouts uniformly: different open cells, [num, m]."""
  cells = grid_model.open_cells(settings)
  num_objects = sum(kind.count for kind in settings.objects)
  return np.stack([rng.choice(cells, num_objects, replace=False)
                   for _ in range(num)])


def all_layouts(settings: grid_world.GridWorldSettings) -> np.ndarray:
  """Returns all layouts, [n, m], without permutations of equal objects."""
  layouts = [()]
  for kind in settings.objects:
    layouts = [
        chosen + more for chosen in layouts for more in itertools.combinations(
            sorted(set(grid_model.open_cells(settings)) - set(chosen)),
            kind.count)]
  return np.array(layouts)


@functools.partial(jax.jit, static_argnums=0)
def episode_returns(environment: base.Environment, params, key):
  """Simulates a random episode for each of `params`; returns [num]."""
  num_actions = jnp.sum(jax.vmap(environment.action_mask)(params), axis=-1)
  num = num_actions.shape[0]
  key, start_key = jax.random.split(key)
  state, _ = jax.vmap(environment.reset)(params,
                                         jax.random.split(start_key, num))

  def step(carry, key):
    state, alive, total = carry
    keys = jax.random.split(key, num + 1)
    action = jax.random.randint(keys[0], (num,), 0, num_actions)
    state, timestep = jax.vmap(environment.step)(params, state, action,
                                                 keys[1:])
    total += alive * timestep.reward
    return (state, alive * timestep.discount, total), None

  (_, _, total), _ = jax.lax.scan(
      step, (state, jnp.ones(num), jnp.zeros(num)),
      jax.random.split(key, environment.max_episode_steps))
  return total


def simulate(environment: grid_world.GridWorld, num: int, seed: int,
             collects_by_action: bool) -> np.ndarray:
  """Returns of `num` episodes under the uniformly random policy, [num]."""
  params_key, key = jax.random.split(jax.random.PRNGKey(seed))
  params = jax.vmap(environment.init_params)(jax.random.split(params_key, num))
  params = params._replace(
      collects_by_action=jnp.full(num, collects_by_action))
  return np.asarray(episode_returns(environment, params, key))


def _summary(method: str, per_space: dict[str, list[Optional[Estimate]]]):
  """Makes the entry of an environment from estimates for 9 and 18 actions."""
  entry: dict[str, Any] = {}
  by_num_actions: dict[str, dict[str, Optional[float]]] = {'9': {}, '18': {}}
  for name, estimates in per_space.items():
    if None in estimates:
      mean = error = None
    else:
      mean = np.mean([estimate.mean for estimate in estimates])
      error = np.linalg.norm([estimate.error for estimate in estimates]) / 2
    values = {name: mean, f'{name}_standard_error': error}
    entry.update({key: _rounded(value) for key, value in values.items()})
    for space, estimate in zip(by_num_actions.values(), estimates):
      space[name] = _rounded(estimate and estimate.mean)
  return {**entry, 'method': method, 'by_num_actions': by_num_actions}


def _rounded(value: Optional[float]) -> Optional[float]:
  return None if value is None else round(float(value), 4)


def _grid_entry(name: str, num_layouts: int, num_episodes: int, seed: int):
  settings = suite.SETTINGS[name]
  spaces = (False, True)
  if settings.tabular:
    rng = np.random.default_rng(seed)
    models = [grid_model.LayoutModel(
        settings, draw_layouts(settings, num_layouts, rng), space)
              for space in spaces]
    method = (f'exact for each of {num_layouts} layouts drawn for each '
              'action space')
  elif all(kind.termination == 1. for kind in settings.objects):
    models = [grid_model.LayoutModel(settings, all_layouts(settings), space)
              for space in spaces]
    method = 'exact, over all layouts'
  elif sum(kind.count for kind in settings.objects) == 1:
    models = [grid_model.RovingModel(settings, space) for space in spaces]
    method = 'exact'
  else:
    random = [_estimate(simulate(suite.load(name), num_episodes, seed + space,
                                 space)) for space in spaces]
    return _summary(f'random: {num_episodes} episodes simulated for '
                    'each action space; optimal: too many states',
                    {'optimal': [None, None], 'random': random})
  return _summary(method, {
      policy: [
          _estimate(grid_model.start_values(
              model, settings.max_episode_steps, policy == 'optimal'),
                    exact=not settings.tabular) for model in models]
      for policy in ('optimal', 'random')})


def draw_lifetimes(environment: base.Environment, num: int,
                   seed: int) -> base.EnvParams:
  """Draws the parameters of `num` lifetimes; leaves [num, ...]."""
  return jax.vmap(environment.init_params)(
      jax.random.split(jax.random.PRNGKey(seed), num))


def _entry(method: str, optimal: Estimate, random: Estimate) -> dict[str, Any]:
  return {'optimal': _rounded(optimal.mean),
          'optimal_standard_error': _rounded(optimal.error),
          'random': _rounded(random.mean),
          'random_standard_error': _rounded(random.error), 'method': method}


def _small_mdp_entry(name: str, num: int, seed: int) -> dict[str, Any]:
  environment = suite.load(name)
  params = draw_lifetimes(environment, num, seed)
  if isinstance(suite.ALL[name], settings_lib.RandomMdpSettings):
    mdps = mdp_model.of_random_mdp(params)
  else:
    mdps = mdp_model.of_survival_chain(
        params, environment.observation_spec().num_values)
  return _entry(f'exact for each of {num} lifetimes', *(
      _estimate(mdp_model.start_values(mdps, best)) for best in (True, False)))


def lifetime_model(settings: settings_lib.RandomGridsSettings,
                   params: random_grids.FamilyParams
                   ) -> grid_model.LayoutModel:
  """Returns the model of one lifetime of `random_grids`."""
  walls = np.where(params.is_open, '.', '#').reshape(
      settings.height, settings.width)
  num = int(params.num_objects)
  objects = tuple(
      settings_lib.ObjectType(1, *map(float, fields)) for fields in zip(
          params.reward[:num], params.termination[:num], params.respawn[:num]))
  return grid_model.LayoutModel(
      settings_lib.GridWorldSettings(
          settings.height, settings.width, objects, int(params.limit), True,
          tuple(map(''.join, walls))),
      params.object_cells[None, :num], bool(params.collects_by_action))


def _family_entry(name: str, num: int, seed: int) -> dict[str, Any]:
  params = jax.device_get(draw_lifetimes(suite.load(name), num, seed))
  values = []
  for i in range(num):
    one = jax.tree_util.tree_map(lambda x, i=i: x[i], params)
    model = lifetime_model(suite.ALL[name], one)
    values.append([grid_model.start_values(model, int(one.limit), best)[0]
                   for best in (True, False)])
  return _entry(f'exact for each of {num} lifetimes',
                *map(_estimate, np.transpose(values)))


def _balance_entry(name: str, num: int, seed: int) -> dict[str, Any]:
  environment = suite.load(name)
  best = environment.max_episode_steps * np.mean(environment.settings.rewards)
  returns = episode_returns(environment,
                             draw_lifetimes(environment, num, seed),
                             jax.random.PRNGKey(seed + 1))
  return _entry(f'random: {num} episodes simulated; optimal: by hand',
                Estimate(float(best), 0.), _estimate(np.asarray(returns)))


def compute(name: str, num_layouts: int = 64, num_episodes: int = 2048,
            seed: int = 0) -> dict[str, Any]:
  """Computes the entry of one environment.

  Args:
    name: name of the environment.
    num_layouts: layouts per action space, if they are solved one by one. Of
      `random_grids` four times as many lifetimes are drawn.
    num_episodes: episodes per action space, if they are simulated. Of kinds
      beyond the paper twice as many lifetimes are drawn.
    seed: seed of layouts and episodes.
  """
  settings = suite.ALL[name]
  if isinstance(settings, (settings_lib.SurvivalChainSettings,
                           settings_lib.RandomMdpSettings)):
    return _small_mdp_entry(name, 2 * num_episodes, seed)
  if isinstance(settings, settings_lib.RandomGridsSettings):
    return _family_entry(name, 4 * num_layouts, seed)
  if isinstance(settings, settings_lib.BalanceSettings):
    return _balance_entry(name, 2 * num_episodes, seed)
  if isinstance(settings, grid_world.GridWorldSettings):
    return _grid_entry(name, num_layouts, num_episodes, seed)
  # The right action is observed, and the noise has mean 0.
  return _entry('by hand', Estimate(1., 0.), Estimate(0., 0.))


def main(names: Sequence[str] = ()) -> None:
  """Computes the entries of some names, or all, and writes the file."""
  entries = dict(optimal_returns.load())
  for name in names or suite.ALL:
    entries[name] = compute(name)
    print(name, entries[name]['optimal'], entries[name]['random'], flush=True)
  optimal_returns.save({name: entries[name] for name in suite.ALL})


if __name__ == '__main__':
  main(sys.argv[1:])
