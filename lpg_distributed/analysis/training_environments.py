"""Evaluates several rules on the training environments, for Figure 3.

All rules get the same lifetimes: layouts and random numbers come from one key,
which training does not use. Rules and A2C are tuned on other lifetimes, with
the same number of trials; see `tuning`. The first trial of a rule is the arm
with the highest probability in its bandit, the maximum over alpha in Eq. (5).
"""

import copy
import dataclasses
import functools
from typing import Any, Callable, Mapping, Optional, Sequence

import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.analysis import curves
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import search_space
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import training_settings as settings_lib
from lpg_distributed.analysis import tuning
from lpg_distributed.core import baselines
from lpg_distributed.core import lifetime
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import suite

_STREAM = tuning.STREAM + 1  # folded into the key of the seed


def sized(config: config_lib.Config, environment: str,
          base: config_lib.Config, settings: settings_lib.ComparisonSettings
          ) -> config_lib.Config:
  """Returns a rule's configuration for lifetimes in one environment.

  Lengths of lifetimes, and their numbers of parallel environments, are those of
  `settings`, else of `base`. The grid of hyperparameters is the first that
  applies:

  - that of the rule's training, if it had the environment
  - that of `base`, if `base` has the environment
  - that of Table 3
  """
  base = dataclasses.replace(
      base, agents={**config_lib.ALL_AGENTS, **base.agents})
  grid = next((known.agents[environment] for known in (config, base)
               if environment in known.environments),
              config_lib.ALL_AGENTS.get(environment, base.agents[environment]))
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
  loaded = suite.load(environment)

  @jax.jit
  def init(key):  # With the keys of `train_agents.simulate`.
    return jax.vmap(functools.partial(lifetime.init_env_params, loaded))(
        jax.random.split(jax.random.split(key, 3)[0], settings.chunk))

  found = [init(key) for key in _chunk_keys(environment, settings)]
  return jax.tree_util.tree_map(
      lambda *x: np.concatenate(x)[:settings.num_lifetimes], *found)


def _hyper(values: search_space.Values, num: int
           ) -> types.LifetimeHyperparameters:
  """Hyperparameters of `num` agents of a rule; None: as they are drawn."""
  full = lambda name: (np.full(num, values[name], np.float32)
                       if name in values else None)
  return types.LifetimeHyperparameters(
      None, full('learning_rate'), full('kl_cost'), None, None,
      full('td_lambda'), full('critic_rate'))


class _RuleSimulator:
  """Simulates agents of a rule, compiled once per number of lifetimes."""

  def __init__(self, config: config_lib.Config, environment: str):
    self._simulators = functools.lru_cache(None)(
        functools.partial(evaluation.LifetimeSimulator, config, environment))
    self._log_probs = np.zeros(
        len(config.agents[environment].arms), np.float32)

  def __call__(self, eta, values, key, num, kl_cost=None):
    return self._simulators(num)(eta, key, self._log_probs, kl_cost,
                                 _hyper(values, num))


def _a2c_simulator(config: config_lib.Config,
                   environment: str) -> tuning.Simulate:
  """Returns a function that simulates A2C, compiled once per number."""
  @jax.jit
  def train(hyper, key):
    return baselines.train_a2c(config, environment, key, hyper)._replace(
        theta=(), env_params=())

  def simulate(values, key, num):
    hyper = baselines.A2CHyperparameters(**{
        name: np.full(num, value, np.float32)
        for name, value in values.items()})
    return jax.tree_util.tree_map(np.asarray, train(hyper, key))

  return simulate


def _first_arm(source: sources.Source, environment: str,
               agent: config_lib.AgentConfig) -> int:
  """Returns the arm that the bandit prefers; if unknown, the middle one."""
  arm = source.preferred_arm(environment, agent)
  return (len(agent.arms) - 1) // 2 if arm is None else arm


def _evaluate_rule(source: sources.Source, config: config_lib.Config,
             environment: str, settings: settings_lib.ComparisonSettings,
             simulate: _RuleSimulator, values: search_space.Values
             ) -> dict[str, dict[str, Any]]:
  """Evaluates a rule and its ablations; returns rows by label.

  The labels of ablations are `LABEL, ABLATION`.
  """
  keys = _chunk_keys(environment, settings)
  run = lambda eta, kl_cost=None: [
      simulate(eta, values, key, settings.chunk, kl_cost) for key in keys]
  whole = run(source.eta)
  bounds = curves.bins(len(whole[0].episode_return), settings.points)
  keep = lambda found: curves.row(found, bounds, settings.num_lifetimes)
  rows = {source.label: keep(whole)}
  if settings.ablations and not source.about.get('untrained'):
    if registry.make_learned(config.rule).predictions is not None:
      rows[f'{source.label}, {settings_lib.NO_Y}'] = keep(
          run(source.eta, 0.))
    if not rule_vector.has_lpg_network(config.rule):
      return rows
    means = [evaluation.input_means(some) for some in whole]
    for label, name in ((settings_lib.HELD_PHI, 'phi'),
                        (settings_lib.HELD_POLICY, 'action_probability'),
                        (settings_lib.HELD_AGE, 'relative_age')):
      if name not in ('phi', *rule_inputs.names(config.rule)) or (
          name == 'action_probability' and not config.rule.sees_policy):
        continue
      rows[f'{source.label}, {label}'] = keep(run(evaluation.hold(
          config.rule, source.eta, name, np.mean([m[name] for m in means]))))
  return rows


class _KindResults:
  """The results on one kind so far; kept after each trial and each rule."""

  def __init__(self, environment: str,
               settings: settings_lib.ComparisonSettings,
               report: Callable[[str], None],
               keep: Callable[[Mapping[str, Any]], None],
               found: Mapping[str, Any]):
    self._environment, self._settings = environment, settings
    self._report, self._keep = report, keep
    self.result: dict[str, Any] = copy.deepcopy(dict(found))
    self._unfinished = self.result.setdefault('tuning', {})

  def tune(self, label: str, space: search_space.Space,
           first: search_space.Values, simulate: tuning.Simulate
           ) -> dict[str, Any]:
    """Chooses the hyperparameters of a rule; see `tuning.tune`."""
    def keep_rows(rows):
      self._unfinished[label] = rows
      self._keep(self.result)

    return tuning.tune(
        self._environment, space, first, simulate, self._settings,
        lambda text: self._report(f'{self._environment}: {label}, {text}'),
        tuning.Log(self._unfinished.get(label, ()), keep_rows))

  def finish(self, label: str, chosen: Mapping[str, Any],
             rows: Mapping[str, Any]) -> None:
    """Adds the rows of a rule, which end its search."""
    self.result['chosen'][label] = chosen
    self.result['rules'].update(rows)
    self._unfinished.pop(label, None)
    self._keep(self.result)


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
      each trial.

  Returns:
    `env_steps` [P]; `rules`, see `curves.row`; `chosen`, how the
    hyperparameters of each rule and of A2C were chosen, see `tuning.tune`.
    `tuning` has the rows of unfinished searches by label, see `tuning.Log`.
  """
  base = rules[0].config
  config = sized(base, environment, base, settings)
  num_updates = train_agents.num_updates(config, environment)
  bounds = curves.bins(num_updates, settings.points)
  per_update = config.meta.trajectory_steps * config.meta.num_envs
  compiled: dict[Any, _RuleSimulator] = {}
  kind_results = _KindResults(environment, settings, report, keep, found or {
      'env_steps': bounds[1:] * per_update, 'rules': {}, 'chosen': {}})
  result = kind_results.result

  for source in rules:
    if source.label in result['chosen']:
      continue
    own = sized(source.config, environment, base, settings)
    agent = own.agents[environment]
    simulate_rule = compiled.setdefault(
        (own.rule, own.meta, own.outer, agent),
        _RuleSimulator(own, environment))
    if source.about.get('untrained'):
      # A control: nothing but eta differs from the first rule.
      chosen = {'best': result['chosen'][rules[0].label]['best'],
                'as': rules[0].label}
    else:
      chosen = kind_results.tune(
          source.label, search_space.of_rule(environment, agent, own.rule),
          search_space.default_rule(
              environment, own, _first_arm(source, environment, agent)),
          functools.partial(simulate_rule, source.eta))
    report(f'{environment}: {source.label}, {settings.num_lifetimes} lifetimes')
    kind_results.finish(source.label, chosen, _evaluate_rule(
        source, own, environment, settings, simulate_rule, chosen['best']))
  label = settings_lib.A2C
  if settings.a2c and label not in result['chosen']:
    simulate = _a2c_simulator(config, environment)
    chosen = kind_results.tune(
        label, search_space.of_a2c(environment, config.agents[environment]),
        search_space.default_a2c(environment, config), simulate)
    report(f'{environment}: {label}, {settings.num_lifetimes} lifetimes')
    found = [simulate(chosen['best'], key, settings.chunk)
             for key in _chunk_keys(environment, settings)]
    kind_results.finish(label, chosen, {
        label: curves.row(found, bounds, settings.num_lifetimes)})
  return result
