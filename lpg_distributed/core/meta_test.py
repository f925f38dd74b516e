"""Meta-testing: one agent learns by a given rule on a host's environments.

Eq. (7), or Eq. (2) without its baseline, with the rule's parameters eta frozen
(B.2). The functions are pure and compiled; `train` is the loop around an
environment that is stepped on the host. Acting already computes the agent's
outputs that the rule wants to see, so they are kept and not computed twice.
"""

import dataclasses
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from envs import host
from lpg_distributed import types
from lpg_distributed.core import agent_networks
from lpg_distributed.core import agent_update
from lpg_distributed.core import lpg_network
from lpg_distributed.core import rollout

# Steps times environments in one part of a gradient. A part takes about 0.15 s
# on one core with the network of Table 4, and cannot be interrupted.
_PART_SIZE = 160


@dataclasses.dataclass(frozen=True)
class Settings:
  """How an agent learns; the defaults are those of Table 4."""
  num_predictions: int = 30  # M, as the rule has it
  optimiser: str = 'adam'
  learning_rate: float = 5e-4  # alpha_lr
  kl_cost: float = 0.5  # alpha_y
  discount: float = 0.995  # gamma
  trajectory_steps: int = 20  # T
  use_baseline: bool = True  # Eq. (7) or Eq. (2)
  # Rewards are clipped to [-x, x] before the rule sees them, as is the custom
  # on Atari (paper silent); 0: not at all.
  max_abs_reward: float = 1.


class AgentState(NamedTuple):
  """What changes as the agent learns."""
  theta: types.Params
  opt_state: Any


class Output(NamedTuple):
  """What the agent says of a state."""
  agent: types.AgentOutput  # [..., A] and [..., M]
  value: chex.Array  # [...], f(s) of Eq. (7); without a use in Eq. (2)


class Experience(NamedTuple):
  """T steps, and what the agent said of them as it took them."""
  trajectory: types.Trajectory  # rewards raw
  output: Output  # leaves [T+1, B, ...]


class Part(NamedTuple):
  """Some of a trajectory's steps, t <= T of them."""
  observation: chex.Array  # [t, B, ...]
  action: chex.Array  # [t, B] int32
  targets: types.LPGTargets  # leaves [t, B, ...]


class Learner(NamedTuple):
  """An agent's compiled functions; see `make_learner`."""
  init: Callable[[chex.PRNGKey], AgentState]
  # (theta, observation [B, ...], key, step) -> (action [B], Output)
  act: Callable[..., tuple[chex.Array, Output]]
  # (theta, observation) -> Output, of any batch.
  evaluate: Callable[..., Output]
  # (eta, Experience) -> (LPGTargets, metrics)
  compute_targets: Callable[..., tuple[types.LPGTargets, Mapping[str, Any]]]
  # (gradient so far, theta, Part) -> the sum of per-step gradients
  add_gradient: Callable[[types.Params, types.Params, Part], types.Params]
  # (AgentState, sum of gradients, number of steps) -> AgentState
  update: Callable[..., AgentState]
  # (eta, AgentState, Experience) -> (AgentState, metrics): the last three in
  # one, for who can wait for it.
  learn: Callable[..., tuple[AgentState, Mapping[str, Any]]]


class Progress(NamedTuple):
  """Where a training is."""
  env_steps: int  # so far, over all environments
  episode_returns: tuple[float, ...]  # raw, of episodes that ended just now
  state: AgentState
  metrics: Optional[Mapping[str, float]]  # of an update that was done just now


def _entropy(logits: chex.Array) -> chex.Array:
  log_p = jax.nn.log_softmax(logits)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def make_learner(
    make_network: Callable[[int], agent_networks.Network],
    num_actions: int,
    settings: Settings,
    rule: Callable[..., types.LPGTargets] = lpg_network.apply) -> Learner:
  """Builds one agent's functions.

  Args:
    make_network: from the number of outputs to a network.
    num_actions: A.
    settings: static.
    rule: (eta, RuleInput) to targets; another one may stand in for LPG.
  """
  network = make_network(num_actions + settings.num_predictions + 1)
  optimiser = agent_update.make_optimiser(settings.optimiser)
  all_actions = jnp.ones(num_actions, bool)

  def evaluate(theta, observation):
    rows = network.apply(theta, observation)
    return Output(types.AgentOutput(rows[..., :num_actions],
                                    rows[..., num_actions:-1]),
                  rows[..., -1])

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
    if settings.max_abs_reward:
      trajectory = trajectory._replace(reward=jnp.clip(
          trajectory.reward, -settings.max_abs_reward,
          settings.max_abs_reward))
    inputs = agent_update.rule_input(
        output.agent, trajectory, jnp.float32(settings.discount))
    targets = rule(eta, inputs)
    kl = agent_update.kl_divergence(output.agent.y_logits[:-1],
                                    targets.y_hat_logits)
    metrics = {
        'policy_entropy': jnp.mean(_entropy(output.agent.logits[:-1])),
        'y_entropy': jnp.mean(_entropy(output.agent.y_logits[:-1])),
        'kl': jnp.mean(kl),
        'pi_hat_square': jnp.mean(jnp.square(targets.pi_hat)),
        'value': jnp.mean(output.value[:-1]),
        'clipped_reward': jnp.mean(trajectory.reward),
    }
    return targets, metrics

  def add_gradient(gradient, theta, part):
    def summed_loss(theta):
      output = evaluate(theta, part.observation)
      # `agent_loss` leaves out the last state, which has no action.
      padded = jax.tree_util.tree_map(
          lambda x: jnp.concatenate([x, x[-1:]]), output.agent)
      trajectory = types.Trajectory(part.observation, part.action, None, None)
      baseline = output.value if settings.use_baseline else None
      return jnp.sum(agent_update.agent_loss(
          padded, trajectory, part.targets, settings.kl_cost, baseline))

    return jax.tree_util.tree_map(
        jnp.add, gradient, jax.grad(summed_loss)(theta))

  def update(state, gradient, num_steps):
    mean = jax.tree_util.tree_map(lambda g: g / num_steps, gradient)
    return AgentState(*optimiser.apply(
        mean, state.opt_state, state.theta, settings.learning_rate))

  def learn(eta, state, experience):
    targets, metrics = compute_targets(eta, experience)
    trajectory = experience.trajectory
    part = Part(trajectory.observation[:-1], trajectory.action, targets)
    zeros = jax.tree_util.tree_map(jnp.zeros_like, state.theta)
    gradient = add_gradient(zeros, state.theta, part)
    return update(state, gradient, trajectory.action.size), metrics

  return Learner(*(jax.jit(f) for f in (
      init, act, evaluate, compute_targets, add_gradient, update, learn)))


def part_steps(num_steps: int, num_envs: int) -> int:
  """Steps in a part of the gradient: a divisor of `num_steps`."""
  fitting = [n for n in range(1, num_steps + 1)
             if num_steps % n == 0 and n * num_envs <= _PART_SIZE]
  return max(fitting, default=1)


def train(environment: host.HostEnvironment, learner: Learner,
          settings: Settings, eta: lpg_network.Eta, seed: int,
          env_steps: int) -> Iterator[Progress]:
  """Trains an agent from its birth.

  Yields often, also in the middle of a step of learning, so that whoever asks
  for the next item may stop instead.

  Args:
    environment: reset here; closed by whoever made it.
    learner: for this environment's specs.
    settings: those of `learner`.
    eta: the rule's parameters.
    seed: of the network, the actions and the environment.
    env_steps: how long, over all environments; ends with the trajectory
      that reaches it.
  """
  num_steps, num_envs = settings.trajectory_steps, environment.num_envs
  size = part_steps(num_steps, num_envs)
  init_key, act_key = jax.random.split(jax.random.PRNGKey(seed))
  state = learner.init(init_key)
  zeros = jax.tree_util.tree_map(jnp.zeros_like, state.theta)
  first = environment.reset(seed)
  observations = np.empty((num_steps + 1,) + first.shape, first.dtype)
  actions = np.empty((num_steps, num_envs), np.int32)
  rewards, discounts = np.empty((2, num_steps, num_envs), np.float32)
  observations[0] = first
  taken = 0  # steps of each environment
  while taken * num_envs < env_steps:
    outputs = []
    for t in range(num_steps):
      action, output = learner.act(state.theta, observations[t], act_key,
                                   np.int32(taken))
      outputs.append(output)
      actions[t] = action
      step = environment.step(actions[t])
      observations[t + 1] = step.observation
      rewards[t], discounts[t] = step.reward, step.discount
      taken += 1
      yield Progress(taken * num_envs, step.episode_returns, state, None)
    outputs.append(learner.evaluate(state.theta, observations[-1]))
    experience = Experience(
        types.Trajectory(observations, actions, rewards, discounts),
        jax.tree_util.tree_map(lambda *xs: jnp.stack(xs), *outputs))
    targets, metrics = learner.compute_targets(eta, experience)
    gradient = zeros
    for begin in range(0, num_steps, size):
      part = Part(*jax.tree_util.tree_map(
          lambda x, i=begin: x[i:i + size], (observations, actions, targets)))
      # Arrays of the host may be read in place: wait before they change.
      gradient = jax.block_until_ready(
          learner.add_gradient(gradient, state.theta, part))
      yield Progress(taken * num_envs, (), state, None)
    state = jax.block_until_ready(
        learner.update(state, gradient, np.float32(actions.size)))
    yield Progress(taken * num_envs, (), state,
                   {name: float(x) for name, x in metrics.items()})
    observations[0] = observations[-1]
