"""Meta-testing: an agent that learns by a fixed rule (B.2).

The rule is one of `core.update_rules`; its eta does not change. The functions
are pure and compiled. `compiled_loop` calls them for JAX environments,
`host_loop` for environments that are stepped on the host. Acting computes the
outputs that the rule needs, so learning reuses them.
"""

import functools
from typing import Any, Callable, Mapping, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import agent_update
from lpg_distributed.core import distributions
from lpg_distributed.core import rollout
from lpg_distributed.core import staged_network
from lpg_distributed.core.update_rules import base
from lpg_distributed.meta_testing import minibatches
from lpg_distributed.meta_testing import settings as settings_lib


class AgentState(NamedTuple):
  """The agent's parameters and the state of its optimiser."""
  theta: types.Params
  opt_state: Any
  # None if the rule does not need it.
  reward_square: Optional[agent_life.RewardSquare] = None


class Activations(NamedTuple):
  """Results of acting that learning reuses."""
  rows: chex.Array  # [B, outputs]; `split` converts it to an `AgentOutput`
  activations: Any  # see `staged_network`


class Part(NamedTuple):
  """A part of a trajectory: t <= T steps."""
  observation: chex.Array  # [t, B, ...]
  action: chex.Array  # [t, B] int32
  targets: base.Targets  # leaves [t, B, ...]
  # Activations of the network at each step, kept from acting. They hold as long
  # as theta has not changed since. None: they are computed again.
  kept: Optional[tuple[Activations, ...]] = None


class Learner(NamedTuple):
  """An agent's compiled functions; see `make_learner`."""
  init: Callable[[chex.PRNGKey], AgentState]
  # (theta, observation [B, ...], key, step) -> (action [B], AgentOutput)
  act: Callable[..., tuple[chex.Array, types.AgentOutput]]
  # (theta, observation [..., *shape]) -> AgentOutput [...]
  evaluate: Callable[..., types.AgentOutput]
  # (AgentState, reward [T, B], Age or None) -> (AgentState, Life). Adds the
  # rewards of a trajectory before its targets are computed.
  observe: Callable[..., tuple[AgentState, base.Life]]
  # (eta, hyper, Experience) -> (Targets, means of metrics); observations are
  # not needed.
  compute_targets: Callable[..., tuple[base.Targets, Mapping[str, Any]]]
  # (hyper, AgentState, summed gradients of all parts, number of steps)
  # -> AgentState
  update: Callable[..., AgentState]
  # (eta, hyper, AgentState, Experience, key) -> (AgentState, metrics): all
  # updates from a trajectory, after `observe`. Only rules with
  # `several_passes` need the key.
  learn: Callable[..., tuple[AgentState, Mapping[str, Any]]]
  # The same updates in steps, for environments on the host:
  # (theta, observation [B, ...], uniform [B]) -> (action [B], Activations)
  act_and_keep: Callable[..., tuple[chex.Array, Activations]]
  # (rows [..., outputs]) -> AgentOutput
  split: Callable[[chex.Array], types.AgentOutput]
  # (hyper, theta, Part) -> the sum of per-step gradients
  gradient: Callable[..., types.Params]
  # (key, Targets) -> the minibatches of one pass; None: one update without
  # minibatches.
  divide: Optional[Callable[..., tuple[minibatches.Minibatch, ...]]]


def num_outputs(num_actions: int, outputs: base.Outputs) -> int:
  """Returns the width of an agent's rows; the first are the actions' logits."""
  return (num_actions + outputs.num_predictions + outputs.value
          + outputs.baseline)


def _make_split(num_actions: int, outputs: base.Outputs
                ) -> Callable[[chex.Array], types.AgentOutput]:
  """Returns a function from rows [..., width] to an `AgentOutput`."""
  first_value = num_actions + outputs.num_predictions

  def split(rows):
    return types.AgentOutput(
        logits=rows[..., :num_actions],
        y_logits=(rows[..., num_actions:first_value]
                  if outputs.num_predictions else None),
        value=rows[..., first_value] if outputs.value else None,
        baseline=rows[..., -1] if outputs.baseline else None)

  return split


def _scaled_reward(settings: settings_lib.AgentSettings,
                 reward: chex.Array) -> chex.Array:
  """Returns the rewards that the agent learns from, scaled and clipped."""
  reward = settings.reward_scale * reward
  if settings.max_abs_reward:
    reward = jnp.clip(reward, -settings.max_abs_reward,
                      settings.max_abs_reward)
  return reward


def _compute_targets(settings: settings_lib.AgentSettings,
                     rule: base.UpdateRule, eta: Any,
                     hyper: base.UpdateHyperparameters,
                     experience: base.Experience
                     ) -> tuple[base.Targets, Mapping[str, Any]]:
  """Scales and clips the rewards, and then computes the rule's targets.

  Returns:
    The targets, and the means of the metrics.
  """
  trajectory = experience.trajectory._replace(
      reward=_scaled_reward(settings, experience.trajectory.reward))
  targets, metrics = rule.compute_targets(
      eta, experience._replace(trajectory=trajectory), hyper)
  metrics = {
      'policy_entropy': distributions.entropy(experience.output.logits[:-1]),
      'clipped_reward': trajectory.reward, **metrics}
  return targets, {name: jnp.mean(x) for name, x in metrics.items()}


def _make_observe(settings: settings_lib.AgentSettings,
                  rule: base.UpdateRule
                  ) -> Callable[..., tuple[AgentState, base.Life]]:
  """Returns the function `observe` of a `Learner`."""
  @jax.jit
  def see(square, reward, age):
    square = agent_life.add_rewards(square, _scaled_reward(settings, reward))
    return square, agent_life.see(rule, age, square)

  def observe(state, reward, age):
    square, life = see(state.reward_square, reward, age)
    return state._replace(reward_square=square), life

  return observe


def _summed_loss(settings: settings_lib.AgentSettings, rule: base.UpdateRule,
                 output: types.AgentOutput, action: chex.Array,
                 targets: base.Targets, hyper: base.UpdateHyperparameters
                 ) -> chex.Array:
  """Returns the rule's loss, summed over all steps."""
  if not settings.use_baseline:
    output = output._replace(baseline=None)
  return jnp.sum(rule.loss(output, action, targets, hyper))


def _part_gradient(network: staged_network.StagedNetwork,
                   loss: Callable[[chex.Array], chex.Array],
                   theta: types.Params, part: Part) -> types.Params:
  """Returns the gradient of a part, from the activations of acting if kept.

  Args:
    network: the agent's network.
    loss: maps rows, [t, B, outputs], to the loss summed over all steps.
    theta: the parameters that collected the part, if it has activations.
    part: its targets are in `loss`, and are not read here.
  """
  num_steps, num_envs = part.action.shape
  observation = part.observation.reshape(
      (num_steps * num_envs,) + part.observation.shape[2:])
  if part.kept is None:
    rows, activations = network.forward(theta, observation)
  else:
    rows, activations = jax.tree_util.tree_map(
        lambda *xs: jnp.concatenate(xs), *part.kept)
  d_rows = jax.grad(
      lambda rows: loss(rows.reshape(num_steps, num_envs, -1)))(rows)
  return network.backward(theta, observation, activations, d_rows)


def _make_learn(settings: settings_lib.AgentSettings,
                compute_targets: Callable[..., Any],
                descend: Callable[..., AgentState],
                divide: Optional[Callable[..., Any]]) -> Callable[..., Any]:
  """Returns the function `learn` of a `Learner`.

  Args:
    settings: the number of passes.
    compute_targets: as in `Learner`.
    descend: (hyper, AgentState, observation, action, Targets) -> AgentState;
      one update.
    divide: as in `Learner`.
  """
  @jax.jit
  def learn(eta, hyper, state, experience, key=None):
    targets, metrics = compute_targets(eta, hyper, experience)
    observation = experience.trajectory.observation[:-1]
    action = experience.trajectory.action
    if divide is None:
      return descend(hyper, state, observation, action, targets), metrics

    def learn_in_one_pass(state, key):
      for chosen, part_targets in divide(key, targets):
        state = descend(hyper, state, observation[:, chosen],
                        action[:, chosen], part_targets)
      return state, None

    state, _ = jax.lax.scan(learn_in_one_pass, state,
                            minibatches.pass_keys(key, settings.passes))
    return state, metrics

  return learn


def make_learner(
    make_network: Callable[[int], Any],
    num_actions: int,
    settings: settings_lib.AgentSettings,
    rule: base.UpdateRule) -> Learner:
  """Builds one agent's functions.

  Args:
    make_network: maps the number of outputs to an `agent_networks.Network` or
      a `staged_network.StagedNetwork`.
    num_actions: A.
    settings: static settings. The numbers in `settings.hyper()` are not read:
      they are arguments of the functions.
    rule: the agent's update rule.
  """
  split = _make_split(num_actions, rule.outputs)
  network = staged_network.staged(make_network(
      num_outputs(num_actions, rule.outputs)))
  optimiser = agent_update.make_optimiser(settings.optimiser)
  all_actions = jnp.ones(num_actions, bool)
  loss = functools.partial(_summed_loss, settings, rule)

  def evaluate(theta, observation):
    return split(network.apply(theta, observation))

  def init(key):
    theta = network.init(key)
    return AgentState(theta, optimiser.init(theta),
                      agent_life.init_rewards(rule))

  def act(theta, observation, key, step):
    output = evaluate(theta, observation)
    uniform = jax.random.uniform(jax.random.fold_in(key, step),
                                 observation.shape[:1])
    return rollout.sample_action(output.logits, uniform, all_actions), output

  compute_targets = functools.partial(_compute_targets, settings, rule)

  def update(hyper, state, gradients, num_steps):
    mean = jax.tree_util.tree_map(lambda *gs: sum(gs) / num_steps, *gradients)
    theta, opt_state = optimiser.apply(
        mean, state.opt_state, state.theta, hyper.learning_rate)
    return state._replace(theta=theta, opt_state=opt_state)

  def descend(hyper, state, observation, action, targets):
    gradient = jax.grad(lambda theta: loss(
        evaluate(theta, observation), action, targets, hyper))(state.theta)
    return update(hyper, state, [gradient], action.size)

  divide = (functools.partial(minibatches.divide, rule, settings.minibatches)
            if rule.several_passes else None)

  def act_and_keep(theta, observation, uniform):
    rows, activations = network.forward(theta, observation)
    action = rollout.sample_action(split(rows).logits, uniform, all_actions)
    return action, Activations(rows, activations)

  def gradient(hyper, theta, part):
    part_loss = lambda rows: loss(
        split(rows), part.action, part.targets, hyper)
    return _part_gradient(network, part_loss, theta, part)

  return Learner(
      init=jax.jit(init), act=jax.jit(act), evaluate=jax.jit(evaluate),
      observe=_make_observe(settings, rule),
      compute_targets=jax.jit(compute_targets), update=jax.jit(update),
      learn=_make_learn(settings, compute_targets, descend, divide),
      act_and_keep=jax.jit(act_and_keep), split=jax.jit(split),
      gradient=jax.jit(gradient),
      divide=jax.jit(divide) if divide else None)
