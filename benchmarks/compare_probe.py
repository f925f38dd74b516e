"""Times the meta-step or the rule of one tree; prints JSON.

`benchmarks.compare` runs this text with `python -c` in each of two trees, the
first on Python's path. So this text imports nothing of `benchmarks`, and only
those modules of the package that exist in both trees.
"""

import json
import sys
import time

import jax
import numpy as np

import lpg_distributed as lpg
from lpg_distributed.core import lifetime


def meta_step(config, environment, num_lifetimes):
  """Returns a call of one meta-step of a shard, and its environment steps."""
  shard = lifetime.make_shard(config, environment, num_lifetimes)
  advance = jax.jit(shard.advance)
  eta = lpg.create_rule(0, config.rule).eta
  arms = np.zeros(len(config.agents[environment].arms), np.float32)
  shard_id = lifetime.ShardId(*map(np.int32, (0, 0, 0, num_lifetimes)))
  empty = shard.empty()
  _, state, _ = advance(eta, arms, empty, shard_id, np.int32(0))
  steps = num_lifetimes * config.meta.window_env_steps
  return lambda: advance(eta, arms, state, shard_id, np.int32(1)), steps


def rule(config, num_lifetimes):
  """Returns a call that differentiates the rule, and its environment steps."""
  created = lpg.create_rule(0, config.rule)
  shape = (config.meta.trajectory_steps, num_lifetimes, config.meta.num_envs)
  ones = np.ones(shape, np.float32)
  m = config.rule.num_predictions
  y = np.full((shape[0] + 1, *shape[1:], m), 1. / m, np.float32)

  def total(eta, y):
    out = lpg.apply_rule(created._replace(eta=eta), ones, ones, 0.99, ones / 2,
                         y)
    return (out.pi_hat ** 2).sum() + (out.y_hat_logits ** 2).sum()

  gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
  return lambda: gradient(created.eta, y), ones.size


def best_us(call, steps, repeats):
  """Processor time of the best call, us per environment step."""
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    start = time.process_time()
    jax.block_until_ready(call())
    times.append(time.process_time() - start)
  return 1e6 * min(times) / steps


def main():
  what, environment, units, envs, lifetimes, repeats = json.loads(sys.argv[1])
  config = lpg.load_config(
      'paper', f'environments={environment}', f'rule.lstm_size={units}',
      f'meta.num_envs={envs}', f'meta.num_lifetimes={lifetimes}')
  call, steps = (rule(config, lifetimes) if what == 'rule'
                 else meta_step(config, environment, lifetimes))
  print(json.dumps(best_us(call, steps, repeats)))


main()
