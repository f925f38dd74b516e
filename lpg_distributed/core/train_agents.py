"""Trains agents on the training environments by a fixed rule.

Nothing differentiates these functions. They measure a rule on lifetimes that
its meta-training did not use. `simulate` does the same for agents that learn
in another way; see `baselines`.
"""

import dataclasses
import functools
from typing import Callable, Mapping, NamedTuple, Optional, Sequence

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rollout
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base
from lpg_distributed.envs import base as environment_base

# Means of the rule's inputs per agent, [L], by name: those of
# `rule_inputs.names`, and `phi`, the mean of phi(y(s)), if the rule's network
# is `lpg_network`.
InputMeans = Mapping[str, chex.Array]


class Lifetimes(NamedTuple):
  """Results of L agents over N updates."""
  final_return: chex.Array  # [L], mean over environments, last whole episode
  episode_return: chex.Array  # [N, L], mean of episodes that end after update n
  num_episodes: chex.Array  # [N, L]; where it is 0, `episode_return` is 0
  input_means: InputMeans  # leaves [N, L], over the trajectory of update n
  hyper: types.LifetimeHyperparameters  # leaves [L]
  theta: types.Params  # leaves [L, ...]
  # Leaves [L, ...]: what each lifetime's environment keeps, such as a layout.
  env_params: environment_base.EnvParams = ()


class LifetimeLearner(NamedTuple):
  """How L agents learn from their trajectories."""
  # (task, progress) -> (progress with new theta and opt_state, means of the
  # inputs of this update).
  update: Callable[[meta_gradient.Task, meta_gradient.Progress],
                   tuple[meta_gradient.Progress, InputMeans]]
  # (task, progress) -> progress; called after each new trajectory, for example
  # to update the critics.
  observe: Callable[[meta_gradient.Task, meta_gradient.Progress],
                    meta_gradient.Progress] = lambda task, progress: progress


class LifetimeState(NamedTuple):
  """State of L lifetimes."""
  task: meta_gradient.Task
  progress: meta_gradient.Progress


def num_updates(config: config_lib.Config, environment: str) -> int:
  """Returns N, the number of updates of a whole lifetime (Table 3)."""
  return config.lifetime_windows(environment) * config.meta.num_updates


def rule_inputs_of(config: config_lib.Config, kind: meta_gradient.Kind,
                   task: meta_gradient.Task, progress: meta_gradient.Progress
                   ) -> rule_inputs.RuleInput:
  """Computes the inputs of a rule with an eta, [T, L, B], for L agents."""
  trajectory = progress.trajectory
  output = meta_gradient.agent_outputs(
      kind, progress.theta, trajectory.observation, task.env_params)
  experience = base.Experience(trajectory, output._replace(
      value=meta_gradient.value_estimates(kind, progress)),
      agent_life.see_each(kind.rule, task.age, progress.reward_square))
  return rule_inputs.rule_input(
      experience, meta_gradient.agent_hyper(task.hyper, config.outer.td_lambda),
      kind.rule.y_input(experience), config.rule)


def make_learner(config: config_lib.Config, kind: meta_gradient.Kind,
                 eta: chex.Array) -> LifetimeLearner:
  """Learner by the rule `eta`, [P], with the same updates as meta-training."""
  tree = rule_vector.unravel(config.rule, eta)

  def compute_means(task, progress):
    inputs = rule_inputs_of(config, kind, task, progress)
    mean = functools.partial(jnp.mean, axis=(0, 2))  # of [T, L, B]
    means = {name: mean(getattr(inputs, name))
             for name in rule_inputs.names(config.rule)}
    if not lpg_network.is_eta(tree):
      return means
    return {**means, 'phi': mean(lpg_network.embed(tree, inputs.y[:-1]))}

  def update(task, progress):
    input_means = compute_means(task, progress)
    theta, opt_state, _ = meta_gradient.update_agents(
        kind, config, tree, progress.theta, progress.opt_state,
        progress.trajectory, task,
        meta_gradient.value_estimates(kind, progress),
        agent_life.see_each(kind.rule, task.age, progress.reward_square))
    return progress._replace(theta=theta, opt_state=opt_state), input_means

  def observe(task, progress):
    if not kind.rule.outputs.value:
      return progress
    return meta_gradient.learn_values(kind, task, progress)[0]

  return LifetimeLearner(update, observe)


def init_lifetimes(config: config_lib.Config, environment: str,
                   kind: meta_gradient.Kind, keys: Sequence[chex.PRNGKey],
                   num_lifetimes: int, arm_log_probs: chex.Array,
                   hyper: Optional[types.LifetimeHyperparameters] = None
                   ) -> LifetimeState:
  """Starts lifetimes and collects their first trajectories; see `simulate`.

  `keys` has two keys: the first draws the lifetimes, the second their
  trajectories.
  """
  init_key, first_key = keys
  split = functools.partial(jax.random.split, num=num_lifetimes)
  task, progress = jax.vmap(
      functools.partial(lifetime.init_lifetime, config, environment, kind),
      in_axes=(0, None), out_axes=lifetime.INIT_AXES)(
          split(init_key), arm_log_probs)
  if hyper is not None:
    given = {name: value for name, value in hyper._asdict().items()
             if value is not None}
    task = task._replace(hyper=task.hyper._replace(**given))
  return LifetimeState(task, meta_gradient.collect(
      kind, config.meta, task, progress, split(first_key)))


def simulate(config: config_lib.Config, environment: str,
             make: Callable[[meta_gradient.Kind], LifetimeLearner],
             key: chex.PRNGKey, num_lifetimes: int, arm_log_probs: chex.Array,
             updates: int,
             kl_cost: Optional[float] = None,
             hyper: Optional[types.LifetimeHyperparameters] = None
             ) -> tuple[Lifetimes, LifetimeState]:
  """Simulates L lifetimes of agents that learn by any learner.

  Args:
    config: sizes and agents; static under `jit`, as are `environment`, `make`,
      `num_lifetimes`, `updates` and `kl_cost`.
    environment: name of the environment kind.
    make: builds the learner of a kind.
    key: source of all randomness. The same key gives the same layouts to any
      learner.
    num_lifetimes: L.
    arm_log_probs: [arms], log-probabilities of the bandit's hyperparameters.
    updates: N; a rule that sees the age has it as the whole lifetime.
    kl_cost: overrides the drawn KL cost; with 0 y is never trained.
    hyper: leaves [L]; overrides the drawn hyperparameters, but for those that
      are None.

  Returns:
    The results, and the state of the lifetimes after the last update.
  """
  kind = lifetime.make_kind(config, environment)
  learner = make(kind)
  init_key, first_key, updates_key = jax.random.split(key, 3)
  task, progress = init_lifetimes(
      config, environment, kind, (init_key, first_key), num_lifetimes,
      arm_log_probs, hyper)
  if kl_cost is not None:
    task = task._replace(hyper=task.hyper._replace(
        kl_cost=jnp.full_like(task.hyper.kl_cost, kl_cost)))
  first = agent_life.begin(kind.rule, num_lifetimes, updates)

  def step(progress, xs):
    key, age = xs
    progress, input_means = learner.update(task._replace(age=age), progress)
    progress = progress._replace(
        returns=rollout.reset_window(progress.returns))
    progress = meta_gradient.collect(
        kind, config.meta, task, progress,
        jax.random.split(key, num_lifetimes))
    progress = learner.observe(task, progress)
    episodes = jnp.sum(progress.returns.window_count, axis=1)
    total = jnp.sum(progress.returns.window_sum, axis=1)
    return progress, (total / jnp.maximum(episodes, 1.), episodes, input_means)

  progress, (episode_return, episodes, input_means) = jax.lax.scan(
      step, progress, (jax.random.split(updates_key, updates),
                       agent_life.ages(first, updates)))
  return Lifetimes(
      jax.vmap(rollout.final_return)(progress.returns), episode_return,
      episodes, input_means, task.hyper, progress.theta, task.env_params
  ), LifetimeState(
      task._replace(age=agent_life.later(first, updates)), progress)


def train_agents(config: config_lib.Config, environment: str, eta: chex.Array,
                 key: chex.PRNGKey, num_lifetimes: int,
                 arm_log_probs: chex.Array, updates: Optional[int] = None,
                 kl_cost: Optional[float] = None,
                 hyper: Optional[types.LifetimeHyperparameters] = None
                 ) -> Lifetimes:
  """Simulates lifetimes of one kind under the rule `eta`, [P].

  The other arguments are those of `simulate`. If `updates` is None, lifetimes
  have their full length.
  """
  if updates is None:
    updates = num_updates(config, environment)
  return simulate(config, environment,
                  lambda kind: make_learner(config, kind, eta), key,
                  num_lifetimes, arm_log_probs, updates, kl_cost, hyper)[0]


@functools.lru_cache(maxsize=16)
def compile_training(
    rule: config_lib.RuleConfig, environment: str, learning_rate: float,
    kl_cost: float, gamma: float, num_agents: int, num_envs: int,
    updates: Optional[int]
) -> Callable[[chex.Array, chex.PRNGKey], Lifetimes]:
  """Compiles a function from (eta, key) to Lifetimes.

  One compiled function serves all rules of these sizes, and all seeds.
  """
  config = config_lib.Config(
      environments=(environment,),
      agents={environment: dataclasses.replace(
          config_lib.ALL_AGENTS[environment], learning_rates=(learning_rate,),
          kl_costs=(kl_cost,))},
      rule=rule,
      meta=config_lib.MetaConfig(
          gammas=(gamma,), num_envs=num_envs, num_lifetimes=num_agents),
      # It knows one kind of rule, and is not used here.
      evaluator=config_lib.EvaluatorConfig(enabled=False))
  return jax.jit(lambda eta, key: train_agents(
      config, environment, eta, key, num_agents, jnp.zeros(1), updates))
