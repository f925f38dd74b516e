"""Agents on the training environments by several rules, for Figure 3.

All rules meet the same lifetimes: layouts, lengths and random numbers come
from one key, which no training uses. A2C is tuned on others, and gets the best
pair of its grid; a rule likewise gets the arm that its bandit likes best, which
is the max over alpha of Eq. (5), and is tuned as A2C is where its bandit does
not know the kind.
"""

import dataclasses
from typing import Any, Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import training_settings as settings_lib
from lpg_distributed.core import baselines
from lpg_distributed.core import train_agents

# Folded into the seed's key, so that tuning sees other lifetimes.
_TUNING, _TEST = 1, 2
_FINALISTS = 4  # pairs of a grid, in the second round of tuning


def sized(config: config_lib.Config, environment: str,
          base: config_lib.Config, settings: settings_lib.Settings
          ) -> config_lib.Config:
  """`config`, a rule's, for one environment and lifetimes of `base`'s size.

  The grid of hyperparameters is that which the rule's bandit knows; for a kind
  that was not in its training `base`'s, and Table 3's for one that was in
  neither, whatever a setting for all kinds says there.
  """
  grid = next((known.agents[environment] for known in (config, base)
               if environment in known.environments),
              config_lib.AGENTS[environment])
  base = dataclasses.replace(
      base, agents={**config_lib.AGENTS, **base.agents})
  num_envs = settings.num_envs or base.meta.num_envs
  updates = settings.updates or (
      base.lifetime_windows(environment) * base.meta.num_updates)
  steps = updates * base.meta.trajectory_steps * num_envs
  agent = dataclasses.replace(
      base.agents[environment], lifetime_env_steps=steps,
      learning_rates=grid.learning_rates, kl_costs=grid.kl_costs)
  return dataclasses.replace(
      config, environments=(environment,), shares=(),
      agents={**base.agents, environment: agent},
      meta=dataclasses.replace(
          config.meta, num_envs=num_envs, lifetime_scale=1., num_updates=1,
          trajectory_steps=base.meta.trajectory_steps))


def _bins(num_updates: int, points: int) -> np.ndarray:
  """[P+1] bounds that cut N updates into P parts."""
  return np.linspace(0, num_updates, min(points, num_updates) + 1).astype(int)


def curve(lifetimes: train_agents.Lifetimes, bounds: np.ndarray) -> np.ndarray:
  """[P, L], mean return of the episodes of each part; NaN where none ended."""
  counts = np.asarray(lifetimes.num_episodes, np.float64)
  sums = np.asarray(lifetimes.episode_return, np.float64) * counts
  over_parts = lambda x: np.add.reduceat(x, bounds[:-1], axis=0)
  with np.errstate(invalid='ignore', divide='ignore'):
    return over_parts(sums) / over_parts(counts)


def _nan_statistics(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard error over [P, L]'s lifetimes that have a number."""
  finite = np.isfinite(curves)
  count = finite.sum(axis=1)
  safe = np.where(finite, curves, 0.)
  with np.errstate(invalid='ignore', divide='ignore'):
    mean = safe.sum(axis=1) / count
    square = np.where(finite, (curves - mean[:, None]) ** 2, 0.).sum(axis=1)
    return mean, np.sqrt(square / (count - 1.) / count)


def row(lives: Sequence[train_agents.Lifetimes], bounds: np.ndarray,
        num: int) -> dict[str, Any]:
  """What is kept of one rule's lifetimes.

  Returns:
    `final` [n] and `whole` [n] (the mean over a lifetime's curve), one number
    for each lifetime; `mean` and `standard_error` [P] of the curves.
  """
  curves = np.concatenate(
      [curve(some, bounds) for some in lives], axis=1)[:, :num]
  final = np.concatenate(
      [np.asarray(some.final_return) for some in lives])[:num]
  mean, error = _nan_statistics(curves)
  return {'final': final, 'mean': mean, 'standard_error': error,
          'whole': _nan_statistics(curves.T)[0]}


def only_arm(arm: int, num_arms: int) -> np.ndarray:
  """[arms], log-probabilities with which this one is drawn."""
  with np.errstate(divide='ignore'):
    return np.log(np.eye(num_arms, dtype=np.float32)[arm])


def tune(num_pairs: int, make: Callable[[int], Callable[
    [int, chex.PRNGKey], train_agents.Lifetimes]],
         settings: settings_lib.Settings) -> tuple[int, list[float]]:
  """Finds the best pair of a grid, in two rounds.

  A few lifetimes of each pair choose `_FINALISTS` of them, and more lifetimes
  of these choose one: the best of many means of a few is mostly a lucky one.
  All pairs meet the same layouts.

  Args:
    num_pairs: of the grid.
    make: a number of lifetimes to what lives them, of the pair of an index.
    settings: how many lifetimes.

  Returns:
    The pair with the best final return, of equally good ones, as chains have,
    the one that was so earlier; and of all pairs the final return, of the last
    round they were in.
  """
  key = evaluation.held_out_key(settings.seed, _TUNING)
  final = [-np.inf] * num_pairs
  ranked = list(range(num_pairs))
  for index, (num, kept) in enumerate((
      (settings.tuning_lifetimes, _FINALISTS), (settings.final_lifetimes, 1))):
    live = make(num)
    whole = {}
    for pair in ranked:
      some = live(pair, jax.random.fold_in(key, index))
      found = row([some], _bins(len(some.episode_return), settings.points), num)
      final[pair], whole[pair] = (
          float(np.nan_to_num(np.mean(found[what]), nan=-np.inf))
          for what in ('final', 'whole'))
    ranked.sort(reverse=True, key=lambda i: (round(final[i], 2), whole[i]))
    ranked = ranked[:kept]
  return ranked[0], final


def tune_rule(config: config_lib.Config, environment: str, eta: np.ndarray,
              settings: settings_lib.Settings) -> dict[str, Any]:
  """Finds the arm with which agents of a rule have the best final return.

  Returns:
    `arm`, and of all: `arms` (pairs) and their `final` returns.
  """
  arms = config.agents[environment].arms

  def make(num):
    lives = evaluation.Lives(config, environment, num)
    return lambda arm, key: lives(eta, key, only_arm(arm, len(arms)))

  arm, final = tune(len(arms), make, settings)
  return {'arm': arm, 'arms': arms, 'final': final}


def a2c_lives(config: config_lib.Config, environment: str, num: int
              ) -> Callable[[Sequence[float], chex.PRNGKey],
                            train_agents.Lifetimes]:
  """What lives `num` lifetimes of A2C with a pair of `baselines.grid`."""
  train = jax.jit(lambda pair, key: baselines.train_a2c(
      config, environment, key, jnp.tile(pair, (num, 1)))._replace(theta=()))
  return lambda pair, key: jax.tree_util.tree_map(
      np.asarray, train(jnp.asarray(pair, jnp.float32), key))


def tune_a2c(config: config_lib.Config, environment: str,
             settings: settings_lib.Settings) -> dict[str, Any]:
  """Finds A2C's pair of `baselines.grid` with the best final return."""
  pairs = baselines.grid(config.agents[environment])

  def make(num):
    lives = a2c_lives(config, environment, num)
    return lambda index, key: lives(pairs[index], key)

  best, final = tune(len(pairs), make, settings)
  rates = sorted({rate for rate, _ in pairs})
  return {'learning_rate': pairs[best][0], 'entropy_cost': pairs[best][1],
          'at_edge': pairs[best][0] in (rates[0], rates[-1]),
          'final': final, 'pairs': pairs}


def _chunk_keys(environment: str, settings: settings_lib.Settings):
  index = list(config_lib.AGENTS).index(environment)
  key = jax.random.fold_in(
      evaluation.held_out_key(settings.seed, _TEST), index)
  num_chunks = -(-settings.num_lifetimes // settings.chunk)
  return [jax.random.fold_in(key, i) for i in range(num_chunks)]


def choose_arm(source: sources.Source, config: config_lib.Config,
               environment: str, settings: settings_lib.Settings
               ) -> dict[str, Any]:
  """How a rule comes to its hyperparameters.

  Args:
    source: the rule; one that is marked as untrained has the hyperparameters
      of that which it stands beside, or draws them uniformly.
    config: what its agents live by, see `sized`.
    environment: its name.
    settings: see there.

  Returns:
    `arm`, None where they are drawn; `arms` (pairs); of one that had to be
    tuned, see `tune_rule`, `final` too.
  """
  agent = config.agents[environment]
  arm = source.preferred_arm(environment, agent)
  if arm is None and not source.about.get('untrained'):
    return tune_rule(config, environment, source.eta, settings)
  return {'arm': arm, 'arms': agent.arms}


def _by_rule(source: sources.Source, environment: str,
             base: config_lib.Config, settings: settings_lib.Settings,
             compiled: dict[Any, evaluation.Lives]
             ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
  """Rows of a rule, and of its ablations under `LABEL, ABLATION`.

  `compiled` is kept from rule to rule; rules of one shape share it.

  Returns:
    The rows, and what `choose_arm` says.
  """
  config = sized(source.config, environment, base, settings)
  lives = compiled.setdefault(
      (config.rule, config.meta, config.outer, config.agents[environment]),
      evaluation.Lives(config, environment, settings.chunk))
  chosen = choose_arm(source, config, environment, settings)
  num_arms = len(chosen['arms'])
  log_probs = (np.zeros(num_arms, np.float32) if chosen['arm'] is None
               else only_arm(chosen['arm'], num_arms))
  keys = _chunk_keys(environment, settings)
  live = lambda eta, alpha_y=None: [
      lives(eta, key, log_probs, alpha_y) for key in keys]
  whole = live(source.eta)
  bounds = _bins(len(whole[0].episode_return), settings.points)
  keep = lambda found: row(found, bounds, settings.num_lifetimes)
  rows = {source.label: keep(whole)}
  if settings.ablations and not source.about.get('untrained'):
    if config.rule.kind != 'lpg_v':
      rows[f'{source.label}, {settings_lib.NO_Y}'] = keep(
          live(source.eta, 0.))
    means = [evaluation.mean_seen(some) for some in whole]
    for label, name in ((settings_lib.HELD_PHI, 'phi'),
                        (settings_lib.HELD_POLICY, 'probability')):
      if name == 'probability' and not config.rule.sees_policy:
        continue
      rows[f'{source.label}, {label}'] = keep(live(evaluation.hold(
          config.rule, source.eta, name, np.mean([m[name] for m in means]))))
  return rows, chosen


def evaluate(environment: str, rules: Sequence[sources.Source],
             settings: settings_lib.Settings,
             say: Callable[[str], None] = lambda text: None
             ) -> Mapping[str, Any]:
  """All rules on one kind.

  Args:
    environment: its name.
    rules: the first one's training says how long lifetimes are; without its
      ablations are those that are marked as untrained.
    settings: see there.
    say: is told what is being done.

  Returns:
    `env_steps` [P], `rules` (see `row`), `arms` (how each rule
    came to its hyperparameters) and, with A2C, `a2c` (see `tune_a2c`).
  """
  base = rules[0].config
  config = sized(base, environment, base, settings)
  num_updates = train_agents.num_updates(config, environment)
  bounds = _bins(num_updates, settings.points)
  per_update = config.meta.trajectory_steps * config.meta.num_envs
  compiled: dict[Any, evaluation.Lives] = {}
  result: dict[str, Any] = {
      'env_steps': bounds[1:] * per_update, 'rules': {}, 'arms': {}}
  for source in rules:
    say(f'{environment}: {source.label}')
    rows, result['arms'][source.label] = _by_rule(
        source, environment, base, settings, compiled)
    result['rules'].update(rows)
  if settings.a2c:
    say(f'{environment}: {settings_lib.A2C}')
    result['a2c'] = tune_a2c(config, environment, settings)
    pair = result['a2c']['learning_rate'], result['a2c']['entropy_cost']
    live = a2c_lives(config, environment, settings.chunk)
    lives = [live(pair, key) for key in _chunk_keys(environment, settings)]
    result['rules'][settings_lib.A2C] = row(
        lives, bounds, settings.num_lifetimes)
  return result
