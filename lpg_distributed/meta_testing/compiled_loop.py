"""The compiled loop of meta-testing, for pure-JAX environments.

It uses the same learner as `host_loop`. Acting, stepping and learning are one
compiled program, a scan over trajectories. Functions here are for one agent;
`vmap` runs several seeds and learning rates at once.

All randomness depends only on the agent's key and the number of the trajectory.
So on one kind of machine the same calls give the same curve, bit for bit.
"""

from typing import Any, Callable, Mapping, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.core import agent_life
from lpg_distributed.core import agent_networks
from lpg_distributed.core import rollout
from lpg_distributed.core.update_rules import base as rule_lib
from lpg_distributed.envs import base
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import settings as settings_lib


class LoopState(NamedTuple):
  """An agent and its environments."""
  agent: learner_lib.AgentState
  env_params: base.EnvParams
  env_state: base.EnvState  # leaves [B, ...]
  observation: chex.Array  # [B, ...]
  returns: rollout.EpisodeReturns
  key: chex.PRNGKey
  updates: chex.Array  # [] int32, number of trajectories so far


class Window(NamedTuple):
  """Statistics of several updates."""
  return_sum: chex.Array  # [], over the episodes that ended
  episodes: chex.Array  # [], number of those episodes
  metrics: Mapping[str, chex.Array]  # means over the updates


class Loop(NamedTuple):
  """Functions of one agent, not yet compiled."""
  init: Callable[[chex.PRNGKey], LoopState]
  # (eta, hyper, LoopState, number of updates) -> (LoopState, Window). The
  # number of updates is static.
  advance: Callable[..., tuple[LoopState, Window]]


def check(environment: base.Environment) -> None:
  """Raises a one-line ValueError if some action is not always allowed."""
  mask = lambda key: environment.action_mask(environment.init_params(key))
  # Masks of many lifetimes, since masks may differ between lifetimes.
  masks = jax.jit(jax.vmap(mask))(jax.random.split(jax.random.PRNGKey(0), 64))
  if not bool(jnp.all(masks)):
    raise ValueError(f'{environment.name} masks some of its actions; allowed: '
                     'environments without masked actions')


def _collect(environment: base.Environment, learner: learner_lib.Learner,
             num_steps: int, state: LoopState, key: chex.PRNGKey
             ) -> tuple[LoopState, rule_lib.Experience]:
  """Collects a trajectory; returns the new state and the experience."""
  env_step = jax.vmap(environment.step, in_axes=(None, 0, 0, 0))
  theta = state.agent.theta
  num_envs = state.observation.shape[0]
  action_key, env_key = jax.random.split(key)
  keys = jax.random.split(env_key, num_steps * num_envs)

  def step(carry, xs):
    env_state, observation, returns = carry
    t, step_keys = xs
    action, output = learner.act(theta, observation, action_key, t)
    env_state, timestep = env_step(state.env_params, env_state, action,
                                   step_keys)
    returns = rollout.add_step(returns, timestep.reward, timestep.discount)
    return ((env_state, timestep.observation, returns),
            (observation, action, timestep.reward, timestep.discount, output))

  (env_state, last, returns), (observations, *rest, outputs) = jax.lax.scan(
      step, (state.env_state, state.observation, state.returns),
      (jnp.arange(num_steps), keys.reshape(num_steps, num_envs, -1)))
  append = lambda xs, x: jnp.concatenate([xs, x[None]])
  outputs = jax.tree_util.tree_map(
      append, outputs, learner.evaluate(theta, last))
  trajectory = types.Trajectory(append(observations, last), *rest)
  return (state._replace(env_state=env_state, observation=last,
                         returns=returns),
          rule_lib.Experience(trajectory, outputs))


def make_loop(environment: base.Environment,
              make_network: Callable[[int], agent_networks.Network],
              settings: settings_lib.AgentSettings,
              rule: rule_lib.UpdateRule,
              num_envs: int, lifetime: int = 0) -> Loop:
  """Builds the functions of one agent.

  Args:
    environment: an environment that passes `check`.
    make_network: maps the number of outputs to a network.
    settings: see `learner.make_learner`.
    rule: the agent's update rule.
    num_envs: B.
    lifetime: number of updates of an agent's life, for a rule that sees it.

  Raises:
    ValueError: the rule sees the lifetime, and there is none.
  """
  if rule.sees_age and not lifetime:
    raise ValueError('this rule sees the age of its agent; needed: the number '
                     'of updates of a lifetime')
  env_reset = jax.vmap(environment.reset, in_axes=(None, 0))
  learner = learner_lib.make_learner(
      make_network, int(environment.action_spec().num_values), settings, rule)

  def init(key):
    agent_key, params_key, reset_key, key = jax.random.split(key, 4)
    env_params = environment.init_params(params_key)
    env_state, observation = env_reset(
        env_params, jax.random.split(reset_key, num_envs))
    returns = rollout.init_returns(num_envs)
    returns = returns._replace(whole=jnp.ones_like(returns.whole))
    return LoopState(learner.init(agent_key), env_params, env_state,
                     observation, returns, key, jnp.int32(0))

  def advance(eta: Any, hyper: rule_lib.UpdateHyperparameters, state: LoopState,
              num_updates: int):
    def update(state, _):
      key = jax.random.fold_in(state.key, state.updates)
      state, experience = _collect(environment, learner,
                                   settings.trajectory_steps, state, key)
      age = agent_life.Age(state.updates, lifetime) if rule.sees_age else None
      agent, life = learner.observe(
          state.agent, experience.trajectory.reward, age)
      agent, metrics = learner.learn(
          eta, hyper, agent, experience._replace(life=life), key)
      return state._replace(agent=agent, updates=state.updates + 1), metrics

    state = state._replace(returns=rollout.reset_window(state.returns))
    state, metrics = jax.lax.scan(update, state, None, num_updates)
    returns = state.returns
    return state, Window(
        jnp.sum(returns.window_sum), jnp.sum(returns.window_count),
        jax.tree_util.tree_map(jnp.mean, metrics))

  return Loop(init, advance)
