"""Nanoseconds per environment step, for every kind.

A compiled rollout under uniformly random actions, in the shape of a shard: 16
lifetimes of 64 parallel environments. The time contains the environment, the
split of one key per step as in `core/rollout.py`, and the drawing of actions.
From the repository's root:

  python -m benchmarks.environments [--output=FILE] [names ...]
"""

import platform
import time
from typing import Any, Sequence

import jax
import jax.numpy as jnp

from benchmarks import arguments
from lpg_distributed.envs import base
from lpg_distributed.envs import suite


def make_rollout(environment: base.Environment, num_steps: int):
  """Returns a compiled function that advances environments at random.

  It maps (params [L], states [L, B], key) to the new states and the timesteps
  [T, L, B].
  """
  over_envs = jax.vmap(environment.step, in_axes=(None, 0, 0, 0))
  step = jax.vmap(over_envs)

  def rollout(params, states, key):
    num_lifetimes, num_envs = jax.tree_util.tree_leaves(states)[0].shape[:2]
    mask = jax.vmap(environment.action_mask)(params)  # [L, A]
    action_key, env_key = jax.random.split(key)
    shape = (num_steps, num_lifetimes, num_envs)
    uniforms = jax.random.uniform(action_key, shape)
    actions = (uniforms * jnp.sum(mask, axis=1)[:, None]).astype(jnp.int32)
    keys = jax.random.split(env_key, num_steps * num_lifetimes * num_envs)
    keys = keys.reshape(shape + (-1,))

    def body(states, xs):
      action, key = xs
      states, timestep = step(params, states, action, key)
      return states, timestep

    return jax.lax.scan(body, states, (actions, keys))

  return jax.jit(rollout)


def measure(name: str, num_lifetimes: int, num_envs: int, num_steps: int,
            repeats: int) -> dict[str, Any]:
  """Times one kind: best and median, in ns per step of one environment."""
  environment = suite.load(name)
  key, params_key, reset_key = jax.random.split(jax.random.PRNGKey(0), 3)
  params = jax.vmap(environment.init_params)(
      jax.random.split(params_key, num_lifetimes))
  keys = jax.random.split(reset_key, num_lifetimes * num_envs)
  reset = jax.vmap(jax.vmap(environment.reset_midway, in_axes=(None, 0)))
  states, _ = jax.jit(reset)(
      params, keys.reshape(num_lifetimes, num_envs, -1))
  rollout = make_rollout(environment, num_steps)
  start = time.perf_counter()
  rollout = rollout.lower(params, states, key).compile()
  compile_s = time.perf_counter() - start
  times = []
  for i in range(repeats + 1):
    start = time.perf_counter()
    states, _ = jax.block_until_ready(
        rollout(params, states, jax.random.fold_in(key, i)))
    times.append(time.perf_counter() - start)
  steps = num_lifetimes * num_envs * num_steps
  best, *_ = ordered = sorted(times[1:])  # The first call is a warm-up.
  return {
      'ns_per_step': 1e9 * best / steps,
      'median_ns_per_step': 1e9 * ordered[len(ordered) // 2] / steps,
      'compile_s': compile_s,
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser_of_names(__doc__)
  for option, default in (('lifetimes', 16), ('envs', 64), ('steps', 100),
                          ('repeats', 10)):
    parser.add_argument(f'--{option}', type=arguments.positive,
                        default=default)
  args = arguments.parse(parser, argv)
  results = {}
  print(f'{"environment":<26}{"ns/step":>9}{"median":>9}{"compile s":>11}')
  for name in args.names:
    row = results[name] = measure(name, args.lifetimes, args.envs, args.steps,
                                  args.repeats)
    print(f'{name:<26}{row["ns_per_step"]:>9.1f}'
          f'{row["median_ns_per_step"]:>9.1f}{row["compile_s"]:>11.2f}',
          flush=True)
  arguments.write(args, {
      'lifetimes': args.lifetimes, 'envs': args.envs, 'steps': args.steps,
      'repeats': args.repeats, 'jax': jax.__version__,
      'device': jax.devices()[0].device_kind,
      'machine': platform.machine(), 'environments': results})


if __name__ == '__main__':
  main()
