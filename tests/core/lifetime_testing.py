"""Small shards for tests that run meta-steps one by one."""

import dataclasses
import functools

import jax
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core import lifetime
from lpg_distributed.core import meta_update

WINDOWS, K, T, B, L = 4, 2, 4, 3, 6
RULE = config_lib.RuleConfig(num_predictions=4, embedding_size=3, lstm_size=3)


def make_config(environment, rule=RULE, **meta):
  agent = dataclasses.replace(config_lib.AGENTS[environment],
                              lifetime_env_steps=WINDOWS * K * T * B)
  return config_lib.Config(
      environments=(environment,), agents={environment: agent}, rule=rule,
      meta=config_lib.MetaConfig(num_lifetimes=L, num_envs=B,
                                 trajectory_steps=T, num_updates=K, **meta))


class Kind:
  """One compiled shard of L lifetimes; runs one or more meta-steps."""

  def __init__(self, environment, rule=RULE, **meta):
    self.environment = environment
    self.config = make_config(environment, rule, **meta)
    self.shard = lifetime.make_shard(self.config, environment, L)
    self.advance = jax.jit(self.shard.advance)
    self.eta = meta_update.init(self.config).eta
    self.arms = len(self.config.agents[environment].arms)

  def step(self, state, meta_step, seed=0, shard_id=0, first_slot=0,
           kind_lifetimes=L, log_probs=None):
    ids = lifetime.ShardId(*map(np.int32, (seed, shard_id, first_slot,
                                           kind_lifetimes)))
    if log_probs is None:
      log_probs = np.zeros(self.arms, np.float32)
    return jax.device_get(self.advance(
        self.eta, log_probs, state, ids, np.int32(meta_step)))

  def run(self, num_steps, **kwargs):
    """Returns the states, the empty one first, and the metrics per step."""
    states, metrics = [self.shard.empty()], []
    for meta_step in range(num_steps):
      _, state, row = self.step(states[-1], meta_step, **kwargs)
      states.append(state)
      metrics.append(row)
    return states, metrics


def map_slots(function, state, *others):
  """Applies `function(leaf, axis=...)` to all leaves: the lifetimes' axis."""
  trees = [state, *others]
  rest = jax.tree_util.tree_map(
      functools.partial(function, axis=0),
      *(t._replace(progress=t.progress._replace(trajectory=()))
        for t in trees))
  return rest._replace(progress=rest.progress._replace(
      trajectory=jax.tree_util.tree_map(
          functools.partial(function, axis=1),
          *(t.progress.trajectory for t in trees))))


def break_lifetime(state, how, slot=2):
  """Returns `state` with one lifetime collapsed or not finite."""
  theta = np.array(state.progress.theta)
  value = state.progress.value
  if how == 'collapsed':
    theta[slot, :, 0] += 1e4
  elif how == 'value':
    params = np.array(value.params)
    params[slot] = np.nan
    value = value._replace(params=params)
  else:
    theta[slot] = float(how)
  return state._replace(progress=state.progress._replace(
      theta=theta, value=value))
