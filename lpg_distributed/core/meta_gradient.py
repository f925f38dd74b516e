"""The meta-gradient: eta's gradient through K updates, Eqs. (3) and (4).

A window is the K agent updates of one meta-step, the sliding window of Section
3.3. `window_loss` runs a window of L lifetimes and computes the meta-loss, an
estimate of the objective, Eq. (1), for the gradient. `lifetime` differentiates
it by eta.
"""

import functools
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import light_imports
from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import agent_networks
from lpg_distributed.core import agent_update
from lpg_distributed.core import backward_lstm
from lpg_distributed.core import convolution
from lpg_distributed.core import critic as critic_lib
from lpg_distributed.core import lpg_network
from lpg_distributed.core import reward_transform
from lpg_distributed.core import rollout as rollout_lib
from lpg_distributed.core import rule_inputs
from lpg_distributed.core import vector_registers
from lpg_distributed.core.update_rules import base as rule_lib
from lpg_distributed.envs import base

rlax = light_imports.import_rlax()


class Kind(NamedTuple):
  """The pure functions of the lifetimes of one environment kind.

  They are static under `jit`. `lifetime.make_kind` builds them.
  """
  environment: base.Environment
  agent: agent_networks.Agent
  optimiser: agent_update.AgentOptimiser
  critic: critic_lib.Critic
  rule: rule_lib.UpdateRule
  # Whether the reverse pass recomputes the agents' updates. This takes time,
  # but stores activations of one update instead of K.
  recomputes: bool = True


class Task(NamedTuple):
  """The part of L lifetimes' state that is constant; leaves [L, ...]."""
  env_params: base.EnvParams
  hyper: types.LifetimeHyperparameters
  rewards: Optional[reward_transform.RewardTransform] = None
  # At the start of a window or an update; None in state that is kept.
  age: Optional[agent_life.Age] = None


class Progress(NamedTuple):
  """The part of L lifetimes' state that a window changes.

  Leaves are [L, ...], but those of the trajectory [T, L, ...].
  """
  theta: types.Params
  opt_state: types.Params
  value: critic_lib.CriticState
  env_state: base.EnvState
  returns: rollout_lib.EpisodeReturns
  # The trajectory of the next update, collected by `theta`. Since the last
  # trajectory of a window is kept, a window takes K rollouts and not K + 1.
  trajectory: types.Trajectory
  # Running mean square of the rewards up to this trajectory; None if the rule
  # does not need it.
  reward_square: Optional[agent_life.RewardSquare] = None


class WindowStats(NamedTuple):
  """Statistics of a window, per lifetime, [L]."""
  loss: chex.Array  # Eq. (4), negated; 0 for excluded lifetimes
  finite: chex.Array  # bool
  policy_entropy: chex.Array  # nats, of theta_K on its trajectory
  y_entropy: chex.Array  # nats, of theta_K on its trajectory
  kl: chex.Array  # D_KL(y || y_hat), mean over the K updates
  pi_hat_square: chex.Array  # mean over the K updates
  y_hat_square: chex.Array  # ||y_hat||^2, mean over the K updates


@jax.custom_vjp
def _isolate(x: chex.Array) -> chex.Array:
  """Zeroes all values of lifetimes, axis 1 of `x`, that are not finite.

  The reverse pass does the same to cotangents. All lifetimes are rows of the
  same matrix products, so a NaN of one would spread to eta's whole gradient.
  """
  return _zero_unless_finite(x)


def _zero_unless_finite(x):
  axes = tuple(i for i in range(x.ndim) if i != 1)
  finite = jnp.all(jnp.isfinite(x), axis=axes, keepdims=True)
  return jnp.where(finite, x, 0.)


_isolate.defvjp(lambda x: (_zero_unless_finite(x), None),
                lambda _, ct: (_zero_unless_finite(ct),))


def isolated_network(eta: lpg_network.Eta,
                     inputs: rule_inputs.RuleInput) -> types.LPGTargets:
  """Applies `lpg_network.apply` to inputs [T, L, B], with `_isolate`."""
  isolate = functools.partial(jax.tree_util.tree_map, _isolate)
  return isolate(lpg_network.apply(eta, isolate(inputs)))


def agent_hyper(hyper: types.LifetimeHyperparameters, td_lambda: float
                ) -> rule_lib.UpdateHyperparameters:
  """Returns the hyperparameters of L agents, [L, 1] each.

  The cost of V(s) is 0, since the critics learn V(s). `td_lambda` is used where
  `hyper` has none.
  """
  column = lambda x: x[:, None]
  td_lambda = (jnp.float32(td_lambda) if hyper.td_lambda is None
               else column(hyper.td_lambda))
  return rule_lib.UpdateHyperparameters(
      learning_rate=column(hyper.learning_rate), kl_cost=column(hyper.kl_cost),
      gamma=column(hyper.gamma), entropy_cost=column(hyper.beta_0),
      value_cost=jnp.zeros(()), td_lambda=td_lambda)


def over_lifetimes(function, in_axes, out_axes, num_lifetimes: int):
  """Like `jax.vmap`, but computes a single lifetime without a batch axis.

  A batch of one would still become batched matrix products, whose arguments XLA
  first transposes.
  """
  if num_lifetimes > 1:
    return jax.vmap(function, in_axes, out_axes)

  def over_tree(change, tree, axes):
    if axes is None:
      return tree
    if isinstance(axes, int):
      return jax.tree_util.tree_map(lambda x: change(x, axes), tree)
    return tuple(over_tree(change, x, axis) for x, axis in zip(tree, axes))

  def one(*args):
    out = function(*over_tree(jnp.squeeze, args, in_axes))
    return over_tree(jnp.expand_dims, out, out_axes)

  return one


def agent_outputs(kind: Kind, theta: types.Params, observation: chex.Array,
                  env_params: base.EnvParams) -> types.AgentOutput:
  """Evaluates L agents on observations [T, L, B, ...]."""
  mask = jax.vmap(kind.environment.action_mask)(env_params)
  return over_lifetimes(kind.agent.apply, (0, 1, 0), 1, mask.shape[0])(
      theta, observation, mask)


def collect(kind: Kind, config: config_lib.MetaConfig, task: Task,
            progress: Progress, keys: chex.PRNGKey) -> Progress:
  """Replaces each lifetime's trajectory by a new one, collected by `theta`.

  Args:
    kind: the lifetimes' common kind.
    config: `trajectory_steps`.
    task: leaves [L, ...].
    progress: leaves [L, ...].
    keys: [L, 2].
  """
  theta = jax.lax.stop_gradient(progress.theta)

  def one(theta, env_params, env_state, observation, returns, key):
    mask = kind.environment.action_mask(env_params)
    policy = lambda obs: kind.agent.apply(theta, obs, mask).logits
    return rollout_lib.rollout(kind.environment, policy, env_params, env_state,
                               observation, returns, key,
                               config.trajectory_steps)

  trajectory, env_state, returns = over_lifetimes(
      one, (0,) * 6, (1, 0, 0), keys.shape[0])(
      theta, task.env_params, progress.env_state,
      progress.trajectory.observation[-1], progress.returns, keys)
  trajectory = trajectory._replace(
      reward=reward_transform.apply(task.rewards, trajectory.reward))
  return progress._replace(
      trajectory=trajectory, env_state=env_state, returns=returns,
      reward_square=agent_life.add_rewards(
          progress.reward_square, trajectory.reward))


def learn_values(kind: Kind, task: Task,
                 progress: Progress) -> tuple[Progress, chex.Array]:
  """Updates the critics from `progress.trajectory`.

  Returns:
    The new progress, and the advantages [T, L, B] by the critics before this
    update.
  """
  hyper = task.hyper
  value, advantage = over_lifetimes(
      kind.critic.update, (0, 1, 0, 0, 0), (0, 1), hyper.gamma.shape[0])(
          progress.value, progress.trajectory, hyper.gamma, hyper.td_lambda,
          hyper.critic_rate)
  return progress._replace(value=value), advantage


def value_estimates(kind: Kind, progress: Progress) -> Optional[chex.Array]:
  """Returns V(s), [T+1, L, B], if the rule has it as an input; else None."""
  if not kind.rule.outputs.value:
    return None
  observation = progress.trajectory.observation
  return over_lifetimes(kind.critic.evaluate, (0, 1), 1,
                        observation.shape[1])(progress.value, observation)


class RegularisationTerms(NamedTuple):
  """Regularisation terms of Eq. (4), means per lifetime, [L]."""
  pi_hat_square: chex.Array
  y_hat_square: chex.Array  # ||y_hat||^2; 0 for a rule without y_hat
  kl: chex.Array  # D_KL(y || y_hat), in nats; for the metrics only


def _regularisation_terms(predictions, output, targets):
  """Computes the terms of one update; means over steps and environments."""
  pi_hat_square = jnp.mean(jnp.square(targets.pi_hat), axis=(0, 2))
  if predictions is None:
    zeros = jnp.zeros_like(pi_hat_square)
    return RegularisationTerms(pi_hat_square, zeros, zeros)
  y_hat = predictions.represent(targets.y_hat_logits)
  y_hat_square = jnp.mean(jnp.sum(jnp.square(y_hat), axis=-1), axis=(0, 2))
  kl = jax.lax.stop_gradient(jnp.mean(predictions.distance(
      output.y_logits[:-1], targets.y_hat_logits), axis=(0, 2)))
  return RegularisationTerms(pi_hat_square, y_hat_square, kl)


def update_agents(kind: Kind, config: config_lib.Config, eta: lpg_network.Eta,
                  theta: types.Params, opt_state: types.Params,
                  trajectory: types.Trajectory, task: Task,
                  values: Optional[chex.Array] = None,
                  life: rule_lib.Life = rule_lib.UNSEEN
                  ) -> tuple[types.Params, types.Params, RegularisationTerms]:
  """Updates L agents once by the rule, Eq. (2).

  Args:
    kind: the agents' common kind.
    config: configuration of the run.
    eta: the rule's parameters.
    theta: the agents' parameters, leaves [L, ...].
    opt_state: states of the agents' optimisers, leaves [L, ...].
    trajectory: leaves [T, L, B, ...], collected under `theta`.
    task: leaves [L, ...].
    values: result of `value_estimates`.
    life: result of `agent_life.see_each`.

  Returns:
    The new `theta`, the new `opt_state`, and the regularisation terms.
  """
  hyper = agent_hyper(task.hyper, config.outer.td_lambda)
  eta, pad = vector_registers.widen_predictions(kind.rule, eta)
  gradient, output, targets = agent_update.agent_gradient(
      rule=kind.rule,
      apply=lambda theta: pad(agent_outputs(
          kind, theta, trajectory.observation, task.env_params)),
      theta=theta,
      compute_targets=lambda output: kind.rule.compute_targets(
          eta, rule_lib.Experience(
              trajectory, output._replace(value=values), life), hyper)[0],
      action=trajectory.action,
      hyper=hyper,
      steps_per_agent=config.meta.trajectory_steps * config.meta.num_envs)
  theta, opt_state = jax.vmap(kind.optimiser.apply)(
      gradient, opt_state, theta, task.hyper.learning_rate)
  return theta, opt_state, _regularisation_terms(
      kind.rule.predictions, output, targets)


def _has_entropy(rule: rule_lib.UpdateRule) -> bool:
  return rule.predictions is not None and rule.predictions.is_distribution


class MetaLoss(NamedTuple):
  """The loss of Eq. (4), negated, and its entropies; [L] each."""
  loss: chex.Array
  policy_entropy: chex.Array  # nats
  y_entropy: chex.Array  # nats; 0 where y is no distribution


def meta_loss(rule: rule_lib.UpdateRule, config: config_lib.MetaConfig,
              output: types.AgentOutput, action: chex.Array,
              advantage: chex.Array, beta_0: chex.Array,
              regularised: RegularisationTerms) -> MetaLoss:
  """Eq. (4), negated for minimisation, per lifetime.

  The policy gradient of Eq. (3) is that of A2C (B.1).

  Args:
    rule: decides whether predictions have an entropy.
    config: beta_1 to beta_3 of Table 2.
    output: outputs of theta_K on its trajectory, [T, L, B, .].
    action: [T, L, B].
    advantage: [T, L, B], a constant.
    beta_0: [L], cost of the policy's entropy.
    regularised: means over the K updates, [L].
  """
  def one(output, action, advantage, beta_0):
    flat = lambda x: x.reshape((-1,) + x.shape[2:])
    weights = jnp.ones(action.size)
    logits = flat(output.logits)
    policy_gradient = rlax.policy_gradient_loss(
        logits, flat(action), flat(advantage), weights)
    policy_entropy = -rlax.entropy_loss(logits, weights)
    y_entropy = (-rlax.entropy_loss(flat(output.y_logits), weights)
                 if _has_entropy(rule) else jnp.zeros(()))
    loss = (policy_gradient - beta_0 * policy_entropy
            - config.prediction_entropy_cost * y_entropy)
    return MetaLoss(loss, policy_entropy, y_entropy)

  found = jax.vmap(one, in_axes=(1, 1, 1, 0))(output, action, advantage, beta_0)
  return found._replace(loss=found.loss + (
      config.pi_hat_cost * regularised.pi_hat_square
      + config.y_hat_cost * regularised.y_hat_square))


def _all_finite(tree, num_lifetimes: int) -> chex.Array:
  """Returns, per lifetime, whether all numbers in `tree` are finite, [L]."""
  finite = jnp.ones((num_lifetimes,), bool)
  for leaf in jax.tree_util.tree_leaves(tree):
    axes = tuple(range(1, leaf.ndim))
    finite = jnp.logical_and(finite, jnp.all(jnp.isfinite(leaf), axis=axes))
  return finite


def window_loss(
    eta: lpg_network.Eta,
    kind: Kind,
    config: config_lib.Config,
    task: Task,
    progress: Progress,
    keys: chex.PRNGKey,
) -> tuple[chex.Array, tuple[Progress, WindowStats]]:
  """Runs K updates of L agents and returns the meta-loss, Eq. (4).

  Args:
    eta: the rule's parameters; the loss is differentiated with respect to them.
    kind: the lifetimes' common kind.
    config: configuration of the run.
    task: leaves [L, ...].
    progress: leaves [L, ...]; its trajectory was collected under its `theta`.
    keys: [L, K, 2], one for each new rollout.

  Returns:
    The loss of Eq. (4), negated for minimisation and summed over lifetimes.
    Lifetimes whose policy collapsed or whose numbers are not finite are
    excluded. Then the progress after the window, and its statistics.
  """
  num_lifetimes = task.hyper.gamma.shape[0]
  update = functools.partial(update_agents, kind, config)
  if kind.recomputes:
    update = jax.checkpoint(
        update, prevent_cse=False,
        policy=jax.checkpoint_policies.save_only_these_names(
            agent_networks.ROWS, backward_lstm.RESIDUALS,
            convolution.RESIDUALS))

  def step(progress, xs):
    keys, age = xs
    theta, opt_state, regularised = update(
        eta, progress.theta, progress.opt_state, progress.trajectory, task,
        value_estimates(kind, progress),
        agent_life.see_each(kind.rule, age, progress.reward_square))
    progress = progress._replace(theta=theta, opt_state=opt_state)
    progress = collect(kind, config.meta, task, progress, keys)
    progress, advantage = learn_values(kind, task, progress)
    return progress, (regularised, advantage)

  progress, (regularised, advantages) = jax.lax.scan(
      step, progress, (jnp.moveaxis(keys, 1, 0),
                       agent_life.ages(task.age, config.meta.num_updates)))
  regularised = jax.tree_util.tree_map(
      lambda x: jnp.mean(x, axis=0), regularised)

  trajectory = progress.trajectory
  output = agent_outputs(kind, progress.theta, trajectory.observation[:-1],
                         task.env_params)
  loss, policy_entropy, y_entropy = meta_loss(
      kind.rule, config.meta, output, trajectory.action, advantages[-1],
      task.hyper.beta_0, regularised)
  finite = jnp.logical_and(_all_finite(progress.theta, num_lifetimes),
                           jnp.isfinite(loss))
  counts = jnp.logical_and(
      finite, policy_entropy >= config.meta.min_policy_entropy)
  loss = jnp.where(counts, loss, 0.)
  stats = WindowStats(
      loss=loss, finite=finite, policy_entropy=policy_entropy,
      y_entropy=y_entropy, **regularised._asdict())
  return jnp.sum(loss), (progress, stats)
