"""Policy evaluation: predictions under a fixed policy (Section 4.3).

Agents follow a fixed, near-optimal policy, and the rule updates only their
predictions. TD(lambda) learns values from the same trajectories. The grid
worlds are not used in training, and neither is their action space: four moves
instead of nine. True values are computed with the exact model.
"""

import dataclasses
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.analysis import evaluation_settings
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import stored
from lpg_distributed.core import agent_life
from lpg_distributed.core import agent_networks
from lpg_distributed.core import agent_update
from lpg_distributed.core import critic as critic_lib
from lpg_distributed.core import distributions
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rollout
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import grid_model
from lpg_distributed.envs import grid_world
from lpg_distributed.envs import optimal

# Every object ends the episode. So in all visited states all objects are
# present, and values differ from cell to cell. No training environment has this
# property.
UNSEEN = grid_world.GridWorldSettings(
    9, 9, (grid_world.ObjectType(2, 1., 1., 0.),
           grid_world.ObjectType(3, -1., 1., 0.)), 500, True)
MOVES = (1, 3, 5, 7)  # up, left, right, down; of nine directions
GAMMAS = (evaluation_settings.GAMMA, 0.99, 0.98, 0.95, 0.9)
# Probability of a uniformly random move, in place of a greedy one.
_EPSILON = 0.1
_TOLERANCE = 1e-6


class GridBatch(NamedTuple):
  """W grid worlds of the same settings, with policies and true values.

  F is the number of cells, m the number of objects, D the number of discounts.
  """
  object_cells: np.ndarray  # [W, m]
  policy: np.ndarray  # [W, F, 4], probabilities of MOVES
  values: np.ndarray  # [D, W, F], true values of the policy, by `GAMMAS`
  visited: np.ndarray  # [W, F] bool; False for cells with an object


def _iterate(backup, values):
  change = np.inf
  while change > _TOLERANCE:
    new = backup(values)
    change = np.max(np.abs(new - values))
    values = new
  return values


def solve(settings: grid_world.GridWorldSettings,
          object_cells: np.ndarray) -> GridBatch:
  """Computes a near-optimal policy and its true values.

  The policy is near-optimal at the largest discount. The step limit is ignored,
  since it is far longer than an episode.

  Args:
    settings: settings without walls, in which every object ends the episode.
    object_cells: [W, m].
  """
  model = grid_model.LayoutModel(settings, object_cells, False)

  def action_values(values, gamma):
    """Action values, [4, 1, F, W]."""
    everything = list(model.action_values(values, gamma))
    return np.stack([everything[move] for move in MOVES])

  best = _iterate(lambda v: action_values(v, GAMMAS[0]).max(axis=0),
                  model.zeros())
  q = action_values(best, GAMMAS[0])
  greedy = q > q.max(axis=0) - 1e-4  # Ties share the probability.
  policy = (1. - _EPSILON) * greedy / greedy.sum(axis=0) + _EPSILON / len(MOVES)
  values = [_iterate(
      lambda v: np.sum(policy * action_values(v, gamma), axis=0),
      model.zeros()) for gamma in GAMMAS]
  num_cells = policy.shape[2]
  visited = np.ones((len(object_cells), num_cells), bool)
  np.put_along_axis(visited, np.searchsorted(model.cells, object_cells), False,
                    axis=1)
  return GridBatch(np.asarray(object_cells), policy[:, 0].transpose(2, 1, 0),
                   np.stack(values)[:, 0].transpose(0, 2, 1), visited)


def make_worlds(num: int, seed: int,
                settings: grid_world.GridWorldSettings = UNSEEN) -> GridBatch:
  """Draws `num` worlds with objects in random cells, and solves them."""
  return solve(settings, optimal.draw_layouts(
      settings, num, np.random.default_rng(seed)))


class PredictionHistory(NamedTuple):
  """Predictions before the first update and after each of R equal parts."""
  updates: np.ndarray  # [R+1]
  y_logits: np.ndarray  # [R+1, W, F, M]
  values: np.ndarray  # [R+1, W, F], learned by TD(lambda)


def _make_kind(config: config_lib.Config, world: grid_world.GridWorldSettings
               ) -> meta_gradient.Kind:
  environment = grid_world.GridWorld('unseen_grid', world)
  spec, agent = environment.observation_spec(), config_lib.AgentConfig()
  rule = registry.make_learned(
      config.rule, network=meta_gradient.isolated_network)
  return meta_gradient.Kind(
      environment=environment, agent=agent_networks.make_agent(
          agent, spec, grid_world.NUM_ACTIONS, rule.outputs.num_predictions,
          config.meta.y_table_stddev),
      optimiser=agent_update.make_optimiser(agent.optimiser),
      critic=critic_lib.make_critic(agent, spec, config.outer),
      rule=rule)


class PolicyEvaluation:
  """Policy evaluation in given worlds, compiled once for rules of one shape."""

  def __init__(self, config: config_lib.Config, worlds: GridBatch,
               settings: evaluation_settings.PredictionSettings,
               world: grid_world.GridWorldSettings = UNSEEN):
    """Prepares policy evaluation; `config` is that of the rule's training.

    Raises:
      ResultsError: rules of this kind have no predictions.
    """
    if registry.make_learned(config.rule).predictions is None:
      raise stored.ResultsError(
          f'a rule of kind {config.rule.kind} has no predictions; allowed: '
          f'{", ".join(rule_vector.predicting_kinds())}')
    self._rule, self._worlds, self._settings = config.rule, worlds, settings
    self._config = dataclasses.replace(config, meta=dataclasses.replace(
        config.meta, num_envs=settings.num_envs,
        trajectory_steps=settings.trajectory_steps))
    self._kind = _make_kind(config, world)
    num_objects = worlds.object_cells.shape[1]
    cells = np.array(grid_model.open_cells(world))
    # The table's rows for states in which all objects are present.
    self._states = cells + (2 ** num_objects - 1) * world.height * world.width
    self._policy = self._policy_logits(world)
    self._advance = jax.jit(self._advance_block)

  def _policy_logits(self, world):
    """Logits of the policy, [W, S, 18]; rows of unvisited states are unused."""
    num = len(self._worlds.object_cells)
    num_states = self._kind.environment.observation_spec().num_values
    logits = np.full((num, num_states, grid_world.NUM_ACTIONS),
                     distributions.MASKED_LOGIT, np.float32)
    logits[:, :, MOVES] = 0.
    for place, move in enumerate(MOVES):
      logits[:, self._states, move] = np.log(self._worlds.policy[..., place])
    return logits

  def _begin(self, init_key, key):
    """Starts agents with new predictions, in the middle of episodes."""
    num, settings = len(self._worlds.object_cells), self._settings
    params = grid_world.GridParams(
        jnp.asarray(self._worlds.object_cells, jnp.int32),
        jnp.zeros(num, bool))
    table = jax.vmap(self._kind.agent.init)(jax.random.split(init_key, num))
    theta = jnp.concatenate(
        [self._policy, table[..., grid_world.NUM_ACTIONS:]], axis=-1)
    fill = lambda value: jnp.full(num, value, jnp.float32)
    task = meta_gradient.Task(params, types.LifetimeHyperparameters(
        jnp.zeros(num, jnp.int32), fill(settings.learning_rate),
        fill(settings.kl_cost), fill(settings.gamma), fill(0.)),
                              age=agent_life.begin(
                                  self._kind.rule, num, settings.updates))
    keys = jax.random.split(key, 3)
    reset = jax.vmap(jax.vmap(self._kind.environment.reset_midway,
                              in_axes=(None, 0)))
    state, observation = reset(params, jax.random.split(
        keys[0], num * settings.num_envs).reshape(num, settings.num_envs, 2))
    shape = (settings.trajectory_steps, num, settings.num_envs)
    trajectory = types.Trajectory(
        jnp.broadcast_to(observation, (shape[0] + 1, *observation.shape)),
        jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.zeros(shape))
    progress = meta_gradient.Progress(
        theta, jax.vmap(self._kind.optimiser.init)(theta),
        jax.vmap(self._kind.critic.init)(
            jax.random.split(keys[1], num)),
        state, jax.vmap(lambda _: rollout.init_returns(settings.num_envs))(
            jnp.arange(num)), trajectory,
        jax.vmap(lambda _: agent_life.init_rewards(self._kind.rule))(
            jnp.arange(num)))
    progress = meta_gradient.collect(
        self._kind, self._config.meta, task, progress,
        jax.random.split(keys[2], num))
    return task, progress

  def _advance_block(self, eta, task, progress, keys):
    """Updates the predictions n times; keys are [n, W, 2]."""
    rule = rule_vector.unravel(self._rule, eta)

    def step(progress, xs):
      keys, age = xs
      progress, _ = meta_gradient.learn_values(self._kind, task, progress)
      theta, opt_state, _ = meta_gradient.update_agents(
          self._kind, self._config, rule, progress.theta, progress.opt_state,
          progress.trajectory, task, life=agent_life.see_each(
              self._kind.rule, age, progress.reward_square))
      # The policy's columns of the table are restored.
      theta = theta.at[..., :grid_world.NUM_ACTIONS].set(self._policy)
      progress = progress._replace(theta=theta, opt_state=opt_state)
      return meta_gradient.collect(
          self._kind, self._config.meta, task, progress, keys), None

    return jax.lax.scan(
        step, progress, (keys, agent_life.ages(task.age, len(keys))))[0]

  def run(self, eta: np.ndarray, init_key: chex.PRNGKey,
          key: chex.PRNGKey) -> PredictionHistory:
    """Evaluates the policies by the rule.

    Args:
      eta: [P].
      init_key: key of the initial predictions.
      key: key of everything else; the same key gives the same trajectories.
    """
    settings, num = self._settings, len(self._worlds.object_cells)
    size = settings.updates // settings.records
    begin_key, *keys = jax.random.split(key, 1 + settings.records)
    task, progress = jax.jit(self._begin)(init_key, begin_key)
    logits, values = [], []

    def record(progress):
      rows = progress.theta[:, self._states, grid_world.NUM_ACTIONS:]
      logits.append(np.asarray(rows))
      values.append(np.asarray(progress.value.params[:, self._states, 0]))

    record(progress)
    for block in keys:
      block_keys = jax.random.split(block, size * num).reshape(size, num, 2)
      progress = self._advance(jnp.asarray(eta), task, progress, block_keys)
      task = task._replace(age=agent_life.later(task.age, size))
      record(progress)
    return PredictionHistory(size * np.arange(settings.records + 1),
                             np.stack(logits), np.stack(values))


def represent(source: sources.Source, y_logits: np.ndarray) -> np.ndarray:
  """Converts the agent's outputs to predictions y."""
  return np.asarray(registry.make_learned(
      source.config.rule).predictions.represent(
      jnp.asarray(y_logits)))


def phi(source: sources.Source, y_logits: np.ndarray) -> np.ndarray:
  """Computes phi(y), [...], from the agent's outputs [..., M].

  Raises:
    ConfigError: the rule has a network of its own, without phi.
  """
  rule_vector.require_lpg_network(source.config.rule, 'phi(y)')
  return np.asarray(lpg_network.embed(
      rule_vector.unravel(source.config.rule, jnp.asarray(source.eta)),
      jnp.asarray(represent(source, y_logits))))


def distance(source: sources.Source, y_0: np.ndarray,
             y_1: np.ndarray) -> np.ndarray:
  """Distance of predictions, [...], from the agent's outputs [..., M].

  It is D_KL(y_0 || y_1), or the squared error for a rule whose y is a vector.
  """
  return np.asarray(registry.make_learned(
      source.config.rule).predictions.distance(
      jnp.asarray(y_0), jnp.asarray(y_1)))


@functools.lru_cache(maxsize=None)
def cells(world: grid_world.GridWorldSettings = UNSEEN) -> np.ndarray:
  """Returns the cells, [F], that the axes of length F refer to."""
  return np.array(grid_model.open_cells(world))
