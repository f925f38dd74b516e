"""The public Python interface: a rule, environments, meta-training, agents.

Thin functions over the packages below, which are free to change; the names
and arguments here are kept. Letters as in `types`: T steps, B parallel
environments, M size of the prediction, N updates, P parameters of the rule.

An error that a caller can mend is an `errors.UserError`, and mostly a
`ValueError` as well. Its message is one line.
"""

import functools
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
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents as train_agents_lib
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import base
from lpg_distributed.envs import suite
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from lpg_distributed.store import training_record


class ArgumentError(errors.UserError, ValueError):
  """A bad argument; the message is one line."""


AgentConfig = config_lib.AgentConfig


class Rule(NamedTuple):
  """An update rule: its parameters, their shape, and what is known of it."""
  eta: np.ndarray  # [P] float32; about 278,000 at the paper's size
  config: config_lib.RuleConfig
  info: Mapping[str, Any] = {}  # as saved with it, for example `meta_step`


def create_rule(seed: int = 0,
                config: Optional[config_lib.RuleConfig] = None) -> Rule:
  """Draws a new, untrained rule.

  Args:
    seed: of its parameters. A run with `run.seed` equal to it and the same
      `rule` begins with the same numbers.
    config: sizes; None: those of the paper (30 predictions, LSTM of 256).
  """
  global_settings.check()
  config = config or config_lib.RuleConfig()
  seed = fields.SEED.check('seed', seed)
  eta = rule_vector.init(config, jax.random.PRNGKey(seed))
  return Rule(np.asarray(rule_vector.ravel(eta)), config)


def load_rule(path: str) -> Rule:
  """Reads a rule: a run's `eta.npz`, one of its `eta/*.npz`, or your own.

  Args:
    path: of the file; or the name of a published rule, one of those in
      `weights/`, whose cards say what they are.

  Raises:
    EtaFileError: no such file, one cut short, or one of something else.
    PublishedError: no published rule of that name.
  """
  global_settings.check()
  return Rule(*eta_file.load(published.resolve(path)))


def save_rule(path: str, rule: Rule, **info: Any) -> None:
  """Writes a rule as `.npz`, with its configuration inside.

  The file is written whole or not at all.

  Args:
    path: of the file.
    rule: to be saved.
    **info: added to `rule.info`; must be what JSON knows.
  """
  eta_file.save(path, rule.eta, rule.config, **{**rule.info, **info})


def apply_rule(rule: Rule,
               reward: chex.Array,
               discount: chex.Array,
               gamma: chex.Numeric,
               action_probability: chex.Array,
               y: chex.Array,
               **inputs: chex.Array) -> types.LPGTargets:
  """Asks the rule what an agent shall learn from a trajectory (Section 3.1).

  Pure, so fit for `jax.jit` and `jax.grad`; with respect to eta, by
  `rule._replace(eta=...)`. By itself it is compiled once for each shape.

  Args:
    rule: with M predictions.
    reward: [T, ...], r_t; any batch axes stand behind T.
    discount: [T, ...], d_t: 0 where the transition ended its episode, else 1.
    gamma: the discount factor, [] or [T, ...].
    action_probability: [T, ...], pi(a_t|s_t) of the action that was taken.
    y: [T+1, ..., M], the agent's predictions at s_0 to s_T, each of which
      sums to 1.
    **inputs: [T, ...], those of `core.rule_inputs.INPUTS` that were added.

  Returns:
    `pi_hat` [T, ...], what log pi(a_t|s_t) is weighted with, and
    `y_hat_logits` [T, ..., M], whose softmax is what y(s_t) shall become; see
    Eq. (2).

  Raises:
    ArgumentError: shapes that do not fit.
  """
  global_settings.check()
  if registry.make_learned(rule.config).predictions is None:
    kinds = ', '.join(rule_vector.predicting_kinds())
    raise ArgumentError(f'this rule is of kind {rule.config.kind}, which has '
                        f'no y; allowed: {kinds}')
  shape = jnp.shape(reward)
  steps = {'discount': discount, 'action_probability': action_probability,
           **inputs, **({'gamma': gamma} if jnp.ndim(gamma) else {})}
  expected: dict[str, tuple[tuple[int, ...], Optional[tuple[int, ...]]]] = {
      name: (jnp.shape(x), shape) for name, x in steps.items()}
  expected['y'] = (jnp.shape(y), (shape[0] + 1, *shape[1:],
                                  rule.config.num_predictions)
                   if shape else None)
  for name, (found, allowed) in expected.items():
    if found != allowed:
      raise ArgumentError(f'{name} has shape {found}; with a reward of shape '
                          f'{shape} allowed: {allowed}')
  inputs = {'reward': reward, 'gamma': jnp.broadcast_to(gamma, shape), 'y': y,
            'discount_t': steps.pop('discount'), **steps}
  return _apply(rule.config, jnp.asarray(rule.eta), rule_inputs.RuleInput(
      **{name: jnp.asarray(x, jnp.float32) for name, x in inputs.items()}))


# Without it, each call would compile the LSTM's loop again.
@functools.partial(jax.jit, static_argnums=0)
def _apply(config: config_lib.RuleConfig, eta: chex.Array,
           inputs: rule_inputs.RuleInput) -> types.LPGTargets:
  return lpg_network.apply(rule_vector.unravel(config, eta), inputs)


def load_environment(name: str) -> base.Environment:
  """Makes one of the fifteen training environments.

  It is pure JAX: `params = init_params(key)` draws what a lifetime keeps,
  `state, observation = reset(params, key)` and `state, timestep = step(params,
  state, action, key)` are for one environment and safe under `jit` and `vmap`.
  `envs.dm_env_adapter.DmEnv` makes a `dm_env.Environment` of it.

  Raises:
    ValueError: there is none; the message names those that there are.
  """
  return suite.load(name)


def load_config(preset: str = 'demo', *overrides: str) -> config_lib.Config:
  """A preset's configuration, with some fields replaced.

  Args:
    preset: demo, laptop or paper.
    *overrides: texts as `meta.num_updates=3`, `environments=a,b` or
      `agents.*.kl_costs=0.5`; what `--set` takes.

  Raises:
    ConfigError: no such preset or field, or a value that is not allowed.
  """
  return config_io.apply_overrides(presets.load(preset), overrides)


class Hyperparameters(NamedTuple):
  """What the bandit balances; `train_agents` takes both by these names."""
  alpha_lr: float  # learning rate of the agent
  alpha_y: float  # cost of the KL term in Eq. (2)


def best_hyperparameters(rule: Union[Rule, str], environment: str
                         ) -> Hyperparameters:
  """The arm that a training's bandit likes best of those tried, Eq. (6).

  Args:
    rule: a published rule, its name, or a run's directory.
    environment: one of those that the rule was trained on.

  Raises:
    ArgumentError: nothing is known of the training, or of this environment.
  """
  if isinstance(rule, str):
    place = rule
  else:
    place = str(rule.info.get('name', ''))
    if place not in published.names() or not np.array_equal(
        rule.eta, load_rule(published.weights_path(place)).eta):
      raise ArgumentError('this rule is no published one; allowed: a '
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

  The embedded path: all nodes are threads, without RPC. Where `run_dir` holds
  a run of the same configuration, it goes on from its last checkpoint. Ctrl-C
  ends with a checkpoint, and then raises `KeyboardInterrupt`.

  `lpg meta-train` sets XLA to one thread before it starts; where
  other flags stand, sums may be in another order, and the numbers differ in
  their last digits.

  Args:
    config: the run; see `load_config`.
    run_dir: where checkpoints, metrics and rules go.
    watch: called about twice a second with the learner's status.
    environments: in place of `config.environments`: names, or objects as
      `docs/own_environment.md` describes. An object is called object/NAME, by
      its `name` or its class.
    agents: rows to add to `config.agents`, by the environment's name; for an
      object NAME suffices.

  Returns:
    The trained rule, which is also in `run_dir/eta.npz`.

  Raises:
    ConfigError: the directory is in use, or of another configuration; or an
      environment breaks the protocol.
    CheckpointError: there are checkpoints, and all are damaged.
  """
  global_settings.check(trains=True)
  # Here, since what only uses a rule needs no nodes.
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
                 alpha_lr: float,
                 alpha_y: float,
                 gamma: float = 0.995,
                 num_agents: int = 1,
                 num_envs: int = 64,
                 updates: Optional[int] = None,
                 seed: int = 0) -> train_agents_lib.Lifetimes:
  """Lets new agents learn by a rule that stays as it is (Eq. 2).

  Each agent has a layout of its own, the architecture and optimiser of Table 3
  and 20 steps of `num_envs` environments per update.

  Args:
    rule: the update rule.
    environment: its name, one of `envs.suite.ENVIRONMENTS`.
    alpha_lr: learning rate; Table 3 has 20 to 80 for tables, 0.0005 to 0.01
      for networks.
    alpha_y: cost of the KL term; Table 3 has 0.1 to 1.
    gamma: the discount factor that the rule is told.
    num_agents: L.
    num_envs: B.
    updates: N; None: a whole lifetime of Table 3.
    seed: of layouts, agents and actions.

  Returns:
    NumPy arrays: `final_return` [L], the mean over environments of the last
    whole episode's undiscounted return; `episode_return` and `num_episodes`
    [N, L], of the episodes that ended after each update; `theta`, the agents'
    parameters, leaves [L, ...]; and more, see `core.train_agents.Lifetimes`.

  Raises:
    ValueError: no such environment, or a number that is not allowed.
  """
  global_settings.check(trains=True)
  suite.check_name(environment)
  seed = fields.SEED.check('seed', seed)
  if updates is not None:
    updates = fields.Integer().check('updates', updates)
  num_agents, num_envs = map(fields.Integer().check, ('num_agents', 'num_envs'),
                             (num_agents, num_envs))
  alpha_lr = fields.Real(open_low=True).check('alpha_lr', alpha_lr)
  alpha_y = fields.Real().check('alpha_y', alpha_y)
  gamma = fields.Real(high=1).check('gamma', gamma)
  train = train_agents_lib.compile_training(
      rule.config, environment, alpha_lr, alpha_y, gamma, num_agents, num_envs,
      updates)
  return jax.tree_util.tree_map(
      np.asarray, train(jnp.asarray(rule.eta), jax.random.PRNGKey(seed)))


class Curve(NamedTuple):
  """How one agent learned."""
  env_steps: np.ndarray  # [n], so far, over its parallel environments
  # [n], mean raw and undiscounted return of the episodes that ended since the
  # last point; NaN where none did.
  returns: np.ndarray


class MetaTest(NamedTuple):
  """Agents that learned by one rule, in the order of their seeds."""
  final_returns: np.ndarray  # [S], over the last tenth of the steps
  curves: tuple[Curve, ...]  # S of them
  directory: Optional[str]  # of the result's files, if they were kept


def meta_test(rule: Union[Rule, str],
              environment: str,
              *,
              seeds: Sequence[int] = (0,),
              env_steps: Optional[int] = None,
              num_envs: Optional[int] = None,
              preset: Optional[str] = None,
              directory: Optional[str] = None,
              **settings: Any) -> MetaTest:
  """Trains agents in an environment that the rule need not know (B.2).

  What `lpg meta-test` does; see `docs/meta_testing.md`.

  Args:
    rule: the update rule, of any kind; or `'a2c'`; or `'random'`,
      for a rule of the paper's size that is drawn for each seed.
    environment: identifier, as `gymnax/CartPole-v1`; see `envs.registry`.
    seeds: one agent each.
    env_steps: of each agent, over its parallel environments; None: by kind.
    num_envs: B; None: by kind.
    preset: of Atari, `dm_noop` (None) or `machado`.
    directory: where result and checkpoints go, and from where an interrupted
      call goes on; None: nothing is kept.
    **settings: fields of `AgentSettings`, as `learning_rate=0.001`.

  Raises:
    JobError, ResultError, CheckpointError: one line each.
  """
  global_settings.check(trains=True)
  # Here, since what only uses a rule needs none of it.
  from lpg_distributed.meta_testing import jobs
  from lpg_distributed.meta_testing import results
  from lpg_distributed.meta_testing import session
  from lpg_distributed.meta_testing import summary
  with tempfile.TemporaryDirectory() as temporary:
    eta = None
    if isinstance(rule, Rule):
      # As text and array alone, so that the same rule is the same file.
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
  final = [summary.final_return(rows) for rows in agents]
  as_array = lambda values: np.array(
      [np.nan if value is None else value for value in values])
  return MetaTest(
      as_array(final),
      tuple(Curve(np.array([row['env_steps'] for row in rows]),
                  as_array([row['return'] for row in rows]))
            for rows in agents), directory)
