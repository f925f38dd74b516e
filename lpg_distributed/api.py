"""The public Python interface: rules, environments, meta-training, agents.

Names and arguments of this module are stable; those of other modules may
change. Letters in shapes are those of `types`: T steps, B parallel
environments, M size of the prediction, P parameters of the rule; N updates.

Errors that the caller can fix are of the class `errors.UserError`, and most are
also a `ValueError`. Their messages are one line.
"""

import os
import tempfile
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence, Union

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed import global_settings
from lpg_distributed import presets
from lpg_distributed import types
from lpg_distributed.core import policy as policy_lib
from lpg_distributed.core import rule_application
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents as train_agents_lib
from lpg_distributed.core.update_rules import base as update_rule
from lpg_distributed.envs import base
from lpg_distributed.envs import suite
from lpg_distributed.store import eta_file
from lpg_distributed.store import policy_file
from lpg_distributed.store import published
from lpg_distributed.store import training_record

ArgumentError = errors.ArgumentError
AgentConfig = config_lib.AgentConfig


class Rule(NamedTuple):
  """An update rule: its parameters, their shape, and metadata."""
  eta: np.ndarray  # [P] float32; about 278,000 at the paper's size
  config: config_lib.RuleConfig
  info: Mapping[str, Any] = {}  # metadata of its file, for example `meta_step`


def create_rule(seed: int = 0,
                config: Optional[config_lib.RuleConfig] = None) -> Rule:
  """Draws a new, untrained rule.

  Args:
    seed: a run with the same `run.seed` and `rule` starts from the same rule.
    config: sizes; None: those of the paper (30 predictions, LSTM of 256).
  """
  global_settings.check()
  config = config or config_lib.RuleConfig()
  seed = fields.SEED.check('seed', seed)
  eta = rule_vector.init(config, jax.random.PRNGKey(seed))
  return Rule(np.asarray(rule_vector.ravel(eta)), config)


def load_rule(path: str) -> Rule:
  """Reads a rule from a file, or a published rule by its name.

  Args:
    path: path of a rule's file, for example `eta.npz` of a run; or the name of
      a published rule. Published rules and their cards are in `weights/`.

  Raises:
    EtaFileError: there is no such file, or it holds no complete rule.
    PublishedError: there is no published rule of that name.
  """
  global_settings.check()
  return Rule(*eta_file.load(published.resolve(path)))


def save_rule(path: str, rule: Rule, **info: Any) -> None:
  """Writes a rule as `.npz`, with its configuration inside.

  The file is written atomically.

  Args:
    path: path of the file.
    rule: the rule to save.
    **info: metadata to add to `rule.info`, of JSON types.
  """
  eta_file.save(path, rule.eta, rule.config, **{**rule.info, **info})


def apply_rule(rule: Rule,
               reward: chex.Array,
               discount: chex.Array,
               gamma: chex.Numeric,
               action_probability: chex.Array,
               y: chex.Array,
               *,
               relative_age: Optional[chex.Numeric] = None,
               log_lifetime: Optional[chex.Numeric] = None,
               reward_rms: Optional[chex.Numeric] = None,
               **inputs: chex.Array) -> types.LPGTargets:
  """Computes an agent's targets from a trajectory (Section 3.1).

  A pure function for `jax.jit` and `jax.grad`. To differentiate it in eta, use
  `rule._replace(eta=...)`. It is compiled once for each shape.

  Args:
    rule: a rule with M predictions.
    reward: [T, ...], r_t; batch axes follow T.
    discount: [T, ...], d_t: 0 where the transition ended its episode, else 1.
    gamma: the discount factor, [] or [T, ...].
    action_probability: [T, ...], pi(a_t|s_t) of the action that was taken.
    y: [T+1, ..., M], the agent's predictions at s_0 to s_T; each sums to 1.
    relative_age: share of the agent's updates that are done, [] or [T, ...].
      This and the next are for a rule with `sees_age`; others ignore them.
    log_lifetime: natural logarithm of the number of all its updates.
    reward_rms: root mean square of the agent's rewards, [] or [T, ...], for a
      rule whose `reward_input` is `normalised`.
    **inputs: [T, ...], additional inputs, if `core.rule_inputs` has any.

  Returns:
    `pi_hat` [T, ...], the weight of log pi(a_t|s_t), and `y_hat_logits`
    [T, ..., M], whose softmax is the target of y(s_t); see Eq. (2).

  Raises:
    UserError: the rule has no y or other inputs, an input is missing, or shapes
      do not match.
  """
  global_settings.check()
  return rule_application.apply(
      rule.config, rule.eta, reward, gamma, y,
      {'discount': discount, 'action_probability': action_probability,
       **inputs}, update_rule.Life(relative_age, log_lifetime, reward_rms))


def load_environment(name: str) -> base.Environment:
  """Returns one of the training environments, in pure JAX.

  `params = init_params(key)` draws the layout of a lifetime. `state,
  observation = reset(params, key)` and `state, timestep = step(params, state,
  action, key)` are for one environment and support `jit` and `vmap`.
  `envs.dm_env_adapter.DmEnv` converts it to a `dm_env.Environment`.

  Raises:
    ValueError: there is no environment of that name.
  """
  return suite.load(name)


def load_config(preset: str = 'demo', *overrides: str) -> config_lib.Config:
  """A preset's configuration, with some fields replaced.

  Args:
    preset: demo, laptop or paper.
    *overrides: texts such as `meta.num_updates=3`, `environments=a,b` or
      `agents.*.kl_costs=0.5`, as for the flag `--set`.

  Raises:
    ConfigError: there is no such preset or field, or a value is not allowed.
  """
  return config_io.apply_overrides(presets.load(preset), overrides)


class Hyperparameters(NamedTuple):
  """The hyperparameters that the bandit selects; see `train_agents`."""
  learning_rate: float  # alpha_lr of the agent
  kl_cost: float  # alpha_y, the cost of the KL term in Eq. (2)


def best_hyperparameters(rule: Union[Rule, str], environment: str
                         ) -> Hyperparameters:
  """Returns the most probable arm of the bandit that trained a rule, Eq. (6).

  Arms that were never tried are excluded.

  Args:
    rule: a published rule, its name, or a run's directory.
    environment: one of the environments that the rule was trained on.

  Raises:
    ArgumentError: the rule's training, or this environment in it, is unknown.
  """
  if isinstance(rule, str):
    place = rule
  else:
    place = str(rule.info.get('name', ''))
    if place not in published.names() or not np.array_equal(
        rule.eta, load_rule(published.weights_path(place)).eta):
      raise ArgumentError('this rule is not a published one; allowed: a '
                          'published rule, its name, or a run\'s directory')
  try:
    return Hyperparameters(*training_record.best_arm(place, environment))
  except ValueError as error:
    raise ArgumentError(str(error)) from None


def meta_train(config: config_lib.Config,
               run_dir: str,
               watch: Optional[Callable[[dict[str, Any]], None]] = None,
               *,
               environments: Sequence[Any] = (),
               agents: Optional[Mapping[str, config_lib.AgentConfig]] = None
               ) -> Rule:
  """Meta-trains in this process until `config.run.meta_steps` are done.

  All nodes run as threads, without RPC. If `run_dir` holds a run of the same
  configuration, that run resumes from its last checkpoint. Ctrl-C writes a
  checkpoint and then raises `KeyboardInterrupt`.

  `lpg meta-train` lets XLA use one thread. With other settings of XLA, sums may
  be in another order, and results may differ in their last digits.

  Args:
    config: configuration of the run; see `load_config`.
    run_dir: directory of checkpoints, metrics and rules.
    watch: called about twice a second with the learner's status.
    environments: replaces `config.environments` by names, or by objects as in
      `docs/own_environment.md`. An object's name is object/NAME, where NAME is
      its attribute `name` or its class.
    agents: rows to add to `config.agents`, by name of the environment; NAME
      suffices for an object.

  Returns:
    The trained rule, which is also in `run_dir/eta.npz`.

  Raises:
    ConfigError: the directory is in use or belongs to another configuration,
      or an environment violates the protocol.
    CheckpointError: all checkpoints are damaged.
  """
  global_settings.check(trains=True)
  # Imported here, since code that only uses a rule does not need the nodes.
  from lpg_distributed import local_loop
  from lpg_distributed.core import environment_check
  from lpg_distributed.store import checkpointing
  from lpg_distributed.store import run_directory
  config = environment_check.with_environments(config, environments,
                                               agents or {})
  environment_check.check(config)
  run = run_directory.RunDirectory.open(run_dir, config)
  try:
    checkpoint = checkpointing.latest(run.path)
    run.update(config)
    if checkpoint is None or checkpoint.meta_step < config.run.meta_steps:
      local_loop.run(config, run.path, checkpoint,
                     watch=watch or (lambda status: None))
    return load_rule(os.path.join(run.path, 'eta.npz'))
  finally:
    run.close()


def train_agents(rule: Rule,
                 environment: str,
                 *,
                 learning_rate: float,
                 kl_cost: float,
                 gamma: float = 0.995,
                 num_agents: int = 1,
                 num_envs: int = 64,
                 updates: Optional[int] = None,
                 seed: int = 0) -> train_agents_lib.Lifetimes:
  """Trains new agents by a fixed rule, Eq. (2).

  Each agent has its own layout, and the architecture and optimiser of Table 3.
  Each update uses 20 steps of `num_envs` environments.

  Args:
    rule: the update rule.
    environment: name of the environment, one of `envs.suite.ALL`.
    learning_rate: alpha_lr; Table 3: tables 20 to 80, networks 0.0005 to 0.01.
    kl_cost: alpha_y, the cost of the KL term; Table 3 has 0.1 to 1.
    gamma: discount factor, an input of the rule.
    num_agents: L.
    num_envs: B.
    updates: N; None: a whole lifetime of Table 3.
    seed: seed of layouts, agents and actions.

  Returns:
    `core.train_agents.Lifetimes` as NumPy arrays. `final_return` [L]: mean over
    environments of the last whole episode's undiscounted return.
    `episode_return` and `num_episodes` [N, L]: of the episodes that ended after
    each update. `theta`: parameters of the agents, leaves [L, ...]. And more.

  Raises:
    ValueError: there is no such environment, or a number is not allowed.
  """
  global_settings.check(trains=True)
  suite.check_name(environment)
  seed = fields.SEED.check('seed', seed)
  if updates is not None:
    updates = fields.Integer().check('updates', updates)
  num_agents, num_envs = map(fields.Integer().check, ('num_agents', 'num_envs'),
                             (num_agents, num_envs))
  learning_rate = fields.Real(open_low=True).check('learning_rate',
                                                   learning_rate)
  kl_cost = fields.Real().check('kl_cost', kl_cost)
  gamma = fields.Real(high=1).check('gamma', gamma)
  train = train_agents_lib.compile_training(
      rule.config, environment, learning_rate, kl_cost, gamma, num_agents,
      num_envs, updates)
  return jax.tree_util.tree_map(
      np.asarray, train(jnp.asarray(rule.eta), jax.random.PRNGKey(seed)))


class Curve(NamedTuple):
  """Learning curve of one agent."""
  env_steps: np.ndarray  # [n], total over its parallel environments
  # [n], mean raw and undiscounted return of the episodes that ended since the
  # previous point; NaN if none ended.
  returns: np.ndarray


class MetaTest(NamedTuple):
  """Results of S agents that learned by one rule, in the order of seeds."""
  final_returns: np.ndarray  # [S], mean return in the last tenth of the steps
  curves: tuple[Curve, ...]  # S learning curves
  directory: Optional[str]  # directory of the results; None: not kept
  policies: Mapping[int, policy_lib.Policy]  # by seed; none if it diverged


def meta_test(rule: Union[Rule, str],
              environment: str,
              *,
              seeds: Sequence[int] = (0,),
              env_steps: Optional[int] = None,
              num_envs: Optional[int] = None,
              preset: Optional[str] = None,
              directory: Optional[str] = None,
              **settings: Any) -> MetaTest:
  """Trains agents by a rule on any environment, as `lpg meta-test` (B.2).

  The rule need not have been trained on it; see `docs/meta_testing.md`.

  Args:
    rule: an update rule of any kind, or the name of a published one; `'a2c'`;
      `'ppo'`; or `'random'`, an untrained rule of the paper's size for each
      seed.
    environment: identifier such as `gymnax/CartPole-v1`; see `envs.registry`.
    seeds: one agent each.
    env_steps: total steps of each agent over its parallel environments; None:
      the default of the kind of environment.
    num_envs: B; None: the default of the kind of environment.
    preset: for Atari, `dm_noop` (None) or `machado`.
    directory: directory of results and checkpoints, from which an interrupted
      call resumes, as `--run_dir` of the command; None: no file is kept.
    **settings: fields of `AgentSettings`, such as `learning_rate=0.001`.

  Raises:
    JobError, ResultError, CheckpointError: messages are one line.
  """
  global_settings.check(trains=True)
  # Imported here, since code that only uses a rule does not need these.
  from lpg_distributed.meta_testing import jobs
  from lpg_distributed.meta_testing import results
  from lpg_distributed.meta_testing import session
  from lpg_distributed.meta_testing import summary
  if isinstance(rule, str) and rule in published.names():
    rule = load_rule(rule)
  with tempfile.TemporaryDirectory() as temporary:
    eta = None
    if isinstance(rule, Rule):
      # Saved without metadata, so that equal rules give equal files.
      eta, name = os.path.join(temporary, 'eta.npz'), rule.config.kind
      eta_file.save(eta, rule.eta, rule.config)
    else:
      name = rule
    job = jobs.make_job(
        environment, name, eta=eta, seeds=seeds, env_steps=env_steps,
        num_envs=num_envs, preset=preset,
        overrides=[f'{k}={v}' for k, v in settings.items()])
    place = directory or os.path.join(temporary, 'job')
    session.run(job, place)
    agents = summary.by_seed(results.read(place)).values()
    policies = policy_file.load_all(place)
  curves = tuple(Curve(np.array([row['env_steps'] for row in rows]),
                       summary.as_array([row['return'] for row in rows]))
                 for rows in agents)
  return MetaTest(summary.as_array(map(summary.final_return, agents)), curves,
                  directory, policies)
