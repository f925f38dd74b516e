"""Meta-testing: one agent learns by a given rule (B.2).

The rule is one of `rules`, its eta frozen. The functions are pure and
compiled; `host_loop` is the loop around an environment that is stepped on the
host. Acting already computes the agent's outputs that the rule wants to see,
so they are kept and not computed twice.
"""

from typing import Any, Callable, Mapping, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.core import agent_update
from lpg_distributed.core import rollout
from lpg_distributed.core import rules
from lpg_distributed.core import staged_network

# What a caller of this module needs of the rules' data.
Settings = rules.Settings
Output = rules.Output
Experience = rules.Experience


class AgentState(NamedTuple):
  """What changes as the agent learns."""
  theta: types.Params
  opt_state: Any


class Kept(NamedTuple):
  """What acting leaves for learning."""
  rows: chex.Array  # [B, outputs]; `split` makes an `Output` of it
  activations: Any  # see `staged_network`


class Part(NamedTuple):
  """Some of a trajectory's steps, t <= T of them."""
  observation: chex.Array  # [t, B, ...]
  action: chex.Array  # [t, B] int32
  targets: rules.Targets  # leaves [t, B, ...]
  kept: tuple[Kept, ...]  # t of them, of the same theta


class Learner(NamedTuple):
  """An agent's compiled functions; see `make_learner`."""
  init: Callable[[chex.PRNGKey], AgentState]
  # (theta, observation [B, ...], key, step) -> (action [B], Output)
  act: Callable[..., tuple[chex.Array, Output]]
  # (theta, observation) -> Output, of any batch.
  evaluate: Callable[..., Output]
  # (eta, Experience) -> (Targets, metrics); no observations needed.
  compute_targets: Callable[..., tuple[rules.Targets, Mapping[str, Any]]]
  # (AgentState, sums of gradients, number of steps) -> AgentState
  update: Callable[..., AgentState]
  # (eta, AgentState, Experience) -> (AgentState, metrics): all that is to be
  # learned from a trajectory.
  learn: Callable[..., tuple[AgentState, Mapping[str, Any]]]
  # The same in steps, for a host that acts between them:
  # (theta, observation [B, ...], uniform [B]) -> (action [B], Kept)
  act_and_keep: Callable[..., tuple[chex.Array, Kept]]
  # (rows [..., outputs]) -> Output
  split: Callable[[chex.Array], Output]
  # (theta, Part) -> the sum of per-step gradients
  gradient: Callable[[types.Params, Part], types.Params]


def make_learner(
    make_network: Callable[[int], Any],
    num_actions: int,
    settings: Settings,
    rule: Optional[rules.UpdateRule] = None) -> Learner:
  """Builds one agent's functions.

  Args:
    make_network: from the number of outputs to an `agent_networks.Network`,
      or a `staged_network.StagedNetwork`.
    num_actions: A.
    settings: static.
    rule: with the same settings; None: `rules.lpg`.
  """
  rule = rule or rules.lpg(settings)
  first_value = num_actions + rule.num_predictions
  num_outputs = first_value + rule.has_value + rule.has_baseline
  network = staged_network.staged(make_network(num_outputs))
  optimiser = agent_update.make_optimiser(settings.optimiser)
  all_actions = jnp.ones(num_actions, bool)

  def split(rows):
    y_logits = (rows[..., num_actions:first_value] if rule.num_predictions
                else None)
    return Output(
        types.AgentOutput(rows[..., :num_actions], y_logits),
        rows[..., first_value] if rule.has_value else None,
        rows[..., -1] if rule.has_baseline else None)

  def evaluate(theta, observation):
    return split(network.apply(theta, observation))

  def init(key):
    theta = network.init(key)
    return AgentState(theta, optimiser.init(theta))

  def act(theta, observation, key, step):
    output = evaluate(theta, observation)
    uniform = jax.random.uniform(jax.random.fold_in(key, step),
                                 observation.shape[:1])
    return rollout.sample_action(output.agent.logits, uniform,
                                 all_actions), output

  def compute_targets(eta, experience):
    trajectory, output = experience
    reward = settings.reward_scale * trajectory.reward
    if settings.max_abs_reward:
      reward = jnp.clip(reward, -settings.max_abs_reward,
                        settings.max_abs_reward)
    trajectory = trajectory._replace(reward=reward)
    targets, metrics = rule.compute_targets(
        eta, Experience(trajectory, output))
    return targets, {
        'policy_entropy': jnp.mean(rules.entropy(output.agent.logits[:-1])),
        'clipped_reward': jnp.mean(trajectory.reward), **metrics}

  def update(state, gradients, num_steps):
    mean = jax.tree_util.tree_map(lambda *gs: sum(gs) / num_steps, *gradients)
    return AgentState(*optimiser.apply(
        mean, state.opt_state, state.theta, settings.learning_rate))

  def learn(eta, state, experience):
    targets, metrics = compute_targets(eta, experience)
    trajectory = experience.trajectory

    def summed_loss(theta):
      output = evaluate(theta, trajectory.observation[:-1])
      return jnp.sum(rule.loss(output, trajectory.action, targets))

    gradient = jax.grad(summed_loss)(state.theta)
    return update(state, [gradient], trajectory.action.size), metrics

  def act_and_keep(theta, observation, uniform):
    rows, activations = network.forward(theta, observation)
    action = rollout.sample_action(split(rows).agent.logits, uniform,
                                   all_actions)
    return action, Kept(rows, activations)

  def gradient(theta, part):
    rows, activations = jax.tree_util.tree_map(
        lambda *xs: jnp.concatenate(xs), *part.kept)
    num_steps, num_envs = part.action.shape

    def summed_loss(rows):
      output = split(rows.reshape(num_steps, num_envs, -1))
      return jnp.sum(rule.loss(output, part.action, part.targets))

    observation = part.observation.reshape(
        (num_steps * num_envs,) + part.observation.shape[2:])
    return network.backward(theta, observation, activations,
                            jax.grad(summed_loss)(rows))

  return Learner(*(jax.jit(f) for f in (
      init, act, evaluate, compute_targets, update, learn, act_and_keep,
      split, gradient)))
