"""Using a rule: agents live under a given eta, from birth to end.

Nothing is differentiated through here. It is how a rule is judged on lifetimes
that had no part in its training, and how it is used.
"""

import functools
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed import types
from lpg_distributed.core import lifetime
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rollout
from lpg_distributed.core import rule_vector


class Lifetimes(NamedTuple):
  """What became of L agents in N updates."""
  final_return: chex.Array  # [L], mean over environments, last whole episode
  episode_return: chex.Array  # [N, L], of episodes completed after update n
  num_episodes: chex.Array  # [N, L]; where it is 0, so is the return
  phi: chex.Array  # [N, L], mean phi(y(s)) over what update n learned from
  hyper: types.HyperParams  # leaves [L]
  theta: types.Params  # leaves [L, ...]


def num_updates(config: config_lib.Config, environment: str) -> int:
  """N of a whole lifetime, Table 3."""
  return config.lifetime_windows(environment) * config.meta.num_updates


def train_agents(config: config_lib.Config, environment: str, eta: chex.Array,
                 key: chex.PRNGKey, num_lifetimes: int,
                 arm_log_probs: chex.Array, updates: Optional[int] = None,
                 alpha_y: Optional[float] = None) -> Lifetimes:
  """Lives `num_lifetimes` lifetimes of one kind, all of their length.

  Args:
    config: sizes and agents; static under `jit`, as are the next and the last
      two arguments.
    environment: its name.
    eta: [P].
    key: draws layouts, hyperparameters and everything else.
    num_lifetimes: L.
    arm_log_probs: [arms], what the bandit's hyperparameters are drawn from.
    updates: N; None: a whole lifetime.
    alpha_y: overrides the drawn KL cost; 0: y is never trained.
  """
  kind = lifetime.make_kind(config, environment)
  rule = rule_vector.unravel(config.rule, eta)
  birth_key, first_key, life_key = jax.random.split(key, 3)
  split = functools.partial(jax.random.split, num=num_lifetimes)
  task, progress = jax.vmap(
      functools.partial(lifetime.birth, config, environment, kind),
      in_axes=(0, None), out_axes=lifetime.BIRTH_AXES)(
          split(birth_key), arm_log_probs)
  if alpha_y is not None:
    task = task._replace(hyper=task.hyper._replace(
        alpha_y=jnp.full_like(task.hyper.alpha_y, alpha_y)))
  progress = meta_gradient.collect(kind, config.meta, task, progress,
                                   split(first_key))

  def mean_phi(progress):
    output = meta_gradient.agent_outputs(
        kind, progress.theta, progress.trajectory.observation[:-1],
        task.env_params)
    phi = lpg_network.embed(rule, jax.nn.softmax(output.y_logits))
    return jnp.mean(phi, axis=(0, 2))  # of [T, L, B]

  def step(progress, key):
    phi = mean_phi(progress)
    theta, opt_state, _ = meta_gradient.update_agents(
        kind, config.meta, rule, progress.theta, progress.opt_state,
        progress.trajectory, task)
    progress = progress._replace(
        theta=theta, opt_state=opt_state,
        returns=rollout.open_window(progress.returns))
    progress = meta_gradient.collect(kind, config.meta, task, progress,
                                     split(key))
    episodes = jnp.sum(progress.returns.window_count, axis=1)
    total = jnp.sum(progress.returns.window_sum, axis=1)
    return progress, (total / jnp.maximum(episodes, 1.), episodes, phi)

  length = num_updates(config, environment) if updates is None else updates
  progress, (episode_return, episodes, phi) = jax.lax.scan(
      step, progress, jax.random.split(life_key, length))
  return Lifetimes(jax.vmap(rollout.final_return)(progress.returns),
                   episode_return, episodes, phi, task.hyper, progress.theta)
