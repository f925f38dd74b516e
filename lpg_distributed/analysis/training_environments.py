"""Evaluates several rules on the training environments, for Figure 3.

All rules get the same lifetimes: layouts, lengths and random numbers come from
one key, which training does not use. A2C is tuned on other lifetimes, and uses
the best pair of its grid. A rule uses the arm that its bandit prefers, the
maximum over alpha in Eq. (5). If its bandit does not know the kind, the rule is
tuned like A2C.
"""

import copy
import dataclasses
from typing import Any, Callable, Mapping, Optional, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import curves
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import training_settings as settings_lib
from lpg_distributed.analysis import tuning
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import suite

_STREAM = tuning.STREAM + 1  # folded into the key of the seed


def sized(config: config_lib.Config, environment: str,
          base: config_lib.Config, settings: settings_lib.ComparisonSettings
          ) -> config_lib.Config:
  """Adapts a rule's configuration to one environment and sizes of lifetimes.

  Sizes of lifetimes are those of `base`. The grid of hyperparameters is the
  first that applies:

  - that of the rule's training, if it had the environment
  - that of `base`, if `base` has the environment
  - that of Table 3

  With `settings.tune` the learning rates are always those of Table 3.
  """
  grid = next((known.agents[environment] for known in (config, base)
               if environment in known.environments),
              config_lib.AGENTS[environment])
  rates = (config_lib.AGENTS[environment] if settings.tune
           else grid).learning_rates
  base = dataclasses.replace(
      base, agents={**config_lib.AGENTS, **base.agents})
  num_envs = settings.num_envs or base.meta.num_envs
  updates = settings.updates or (
      base.lifetime_windows(environment) * base.meta.num_updates)
  steps = updates * base.meta.trajectory_steps * num_envs
  agent = dataclasses.replace(
      base.agents[environment], lifetime_env_steps=steps,
      learning_rates=rates, kl_costs=grid.kl_costs)
  return dataclasses.replace(
      config, environments=(environment,), shares=(),
      agents={**base.agents, environment: agent},
      meta=dataclasses.replace(
          config.meta, num_envs=num_envs, lifetime_scale=1., num_updates=1,
          trajectory_steps=base.meta.trajectory_steps))


def _chunk_keys(environment: str, settings: settings_lib.ComparisonSettings):
  key = jax.random.fold_in(
      evaluation.held_out_key(settings.seed, _STREAM),
      suite.seed_number(environment))
  num_chunks = -(-settings.num_lifetimes // settings.chunk)
  return [jax.random.fold_in(key, i) for i in range(num_chunks)]


def layouts(environment: str, settings: settings_lib.ComparisonSettings) -> Any:
  """Returns the environments' parameters in the lifetimes of the comparison.

  Returns:
    NumPy leaves [`settings.num_lifetimes`, ...].
  """
  config = config_lib.Config()
  idle = train_agents.LifetimeLearner(lambda task, progress: (progress, {}))

  @jax.jit
  def init(key):  # XLA drops everything but the parameters.
    return train_agents.simulate(
        config, environment, lambda kind: idle, key,
        settings.chunk, jnp.zeros(len(config.agents[environment].arms)),
        updates=0)[1].task.env_params

  found = [init(key) for key in _chunk_keys(environment, settings)]
  return jax.tree_util.tree_map(
      lambda *x: np.concatenate(x)[:settings.num_lifetimes], *found)


def _by_rule(source: sources.Source, environment: str,
             base: config_lib.Config, settings: settings_lib.ComparisonSettings,
             compiled: dict[Any, evaluation.LifetimeSimulator],
             report: Callable[[str], None], log: Optional[tuning.Log] = None
             ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
  """Evaluates a rule and its ablations, labelled `LABEL, ABLATION`.

  `compiled` caches compiled functions; rules of the same shape share them.

  Returns:
    The rows by label, and the result of `tuning.choose_arm`.
  """
  config = sized(source.config, environment, base, settings)
  if settings.tune:
    config = tuning.with_a2c_rates(config, environment)
  simulate = compiled.setdefault(
      (config.rule, config.meta, config.outer, config.agents[environment]),
      evaluation.LifetimeSimulator(config, environment, settings.chunk))
  chosen = tuning.choose_arm(
      source, config, environment, settings, report, log)
  num_arms = len(chosen['arms'])
  log_probs = (np.zeros(num_arms, np.float32) if chosen['arm'] is None
               else tuning.only_arm(chosen['arm'], num_arms))
  report(f'{settings.num_lifetimes} lifetimes')
  keys = _chunk_keys(environment, settings)
  run = lambda eta, alpha_y=None: [
      simulate(eta, key, log_probs, alpha_y) for key in keys]
  whole = run(source.eta)
  bounds = curves.bins(len(whole[0].episode_return), settings.points)
  keep = lambda found: curves.row(found, bounds, settings.num_lifetimes)
  rows = {source.label: keep(whole)}
  if settings.ablations and not source.about.get('untrained'):
    if registry.make_learned(config.rule).predictions is not None:
      rows[f'{source.label}, {settings_lib.NO_Y}'] = keep(
          run(source.eta, 0.))
    means = [evaluation.input_means(some) for some in whole]
    for label, name in ((settings_lib.HELD_PHI, 'phi'),
                        (settings_lib.HELD_POLICY, 'action_probability')):
      if name == 'action_probability' and not config.rule.sees_policy:
        continue
      rows[f'{source.label}, {label}'] = keep(run(evaluation.hold(
          config.rule, source.eta, name, np.mean([m[name] for m in means]))))
  return rows, chosen


def evaluate(environment: str, rules: Sequence[sources.Source],
             settings: settings_lib.ComparisonSettings,
             report: Callable[[str], None] = lambda text: None,
             found: Optional[Mapping[str, Any]] = None,
             keep: Callable[[Mapping[str, Any]], None] = lambda found: None
             ) -> Mapping[str, Any]:
  """Evaluates all rules on one kind.

  Args:
    environment: name of the environment kind.
    rules: the rules. The first one's training determines the length of
      lifetimes. Rules that are marked as untrained have no ablations.
    settings: settings of the comparison.
    report: called with messages about progress.
    found: the last argument of `keep` in an earlier call, to resume from.
    keep: called with the results so far, after each rule, and in tuning after
      each pair of a grid.

  Returns:
    `env_steps` [P]; `rules`, see `curves.row`; `arms`, how each rule's
    hyperparameters were chosen; with A2C also `a2c`, see `tuning.tune_a2c`.
    `tuning` has the rows of unfinished searches by label, see `tuning.Log`.
  """
  base = rules[0].config
  config = sized(base, environment, base, settings)
  num_updates = train_agents.num_updates(config, environment)
  bounds = curves.bins(num_updates, settings.points)
  per_update = config.meta.trajectory_steps * config.meta.num_envs
  report_of = lambda label: lambda text: report(
      f'{environment}: {label}, {text}')
  compiled: dict[Any, evaluation.LifetimeSimulator] = {}
  result: dict[str, Any] = copy.deepcopy(dict(found)) if found else {
      'env_steps': bounds[1:] * per_update, 'rules': {}, 'arms': {}}
  unfinished = result.setdefault('tuning', {})

  def log_of(label):
    def keep_rows(rows):
      unfinished[label] = rows
      keep(result)
    return tuning.Log(unfinished.get(label, ()), keep_rows)

  def keep_finished(label):
    unfinished.pop(label, None)
    keep(result)

  for source in rules:
    if source.label not in result['arms']:
      rows, result['arms'][source.label] = _by_rule(
          source, environment, base, settings, compiled,
          report_of(source.label), log_of(source.label))
      result['rules'].update(rows)
      keep_finished(source.label)
  if settings.a2c and 'a2c' not in result:
    report_a2c = report_of(settings_lib.A2C)
    tuned = tuning.tune_a2c(config, environment, settings, report_a2c,
                            log_of(settings_lib.A2C))
    pair = tuned['learning_rate'], tuned['entropy_cost']
    report_a2c(f'{settings.num_lifetimes} lifetimes')
    simulate = tuning.a2c_simulator(config, environment, settings.chunk)
    lifetimes = [simulate(pair, key)
                 for key in _chunk_keys(environment, settings)]
    result['rules'][settings_lib.A2C] = curves.row(
        lifetimes, bounds, settings.num_lifetimes)
    result['a2c'] = tuned
    keep_finished(settings_lib.A2C)
  return result
