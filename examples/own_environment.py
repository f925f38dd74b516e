"""Your own environment: meta-train a rule on it, then let new agents learn.

    python -m examples.own_environment --meta_steps=20

`Corridor` is an environment in JAX, as docs/own_environment.md describes. Each
lifetime has a corridor of its own, with the prize at one of its two ends. The
program meta-trains a small rule there and lets two agents learn by it. At the
end one of these agents acts, as a function from observations to actions.
"""

import argparse
import os

import jax
import jax.numpy as jnp

import lpg_distributed as lpg

_LENGTH = 9  # cells


class Corridor:
  """Nine cells; an episode begins in the middle and ends at either end."""
  num_actions, num_states, max_episode_steps = 2, _LENGTH, 30

  def init_params(self, key):
    """Draws the end that has the prize: False is left, True is right."""
    return jax.random.bernoulli(key)

  def reset(self, params, key):
    """Returns the state (cell, time) and the observation, the cell."""
    cell = jnp.int32(_LENGTH // 2)
    return (cell, jnp.int32(0)), cell

  def step(self, params, state, action, key):
    """Returns the state and (observation, reward, d_t)."""
    cell, time = state[0] + 2 * action - 1, state[1] + 1
    at_end = (cell == 0) | (cell == _LENGTH - 1)
    won = cell == jnp.where(params, _LENGTH - 1, 0)
    ended = at_end | (time == self.max_episode_steps)
    # An episode that has ended is followed by the next one in the same step.
    state, observation = jax.tree_util.tree_map(
        lambda first, later: jnp.where(ended, first, later),
        self.reset(params, key), ((cell, time), cell))
    return state, (observation, jnp.where(won, 1., -0.02),
                   jnp.where(ended, 0., 1.))


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--meta_steps', type=int, default=20)
  parser.add_argument('--env_steps', type=int, default=20_000,
                      help='steps of each agent that learns by the rule')
  parser.add_argument('--run_dir', default='runs/corridor')
  parser.add_argument('--set', action='append', default=[],
                      help='a field of the configuration, as meta.num_envs=4')
  flags = parser.parse_args(argv)

  config = lpg.load_config('demo', f'run.meta_steps={flags.meta_steps}',
                           'evaluator.enabled=false', *flags.set)
  rule = lpg.meta_train(
      config, flags.run_dir, environments=[Corridor()],
      agents={'Corridor': lpg.AgentConfig(lifetime_env_steps=100_000)})

  # Meta-testing finds the class by its module, as --env of `lpg meta-test`.
  agents_dir = os.path.join(flags.run_dir, 'agents')
  agents = lpg.meta_test(
      rule, 'module/examples.own_environment:Corridor', seeds=(0, 1),
      env_steps=flags.env_steps, directory=agents_dir, learning_rate=0.005)
  print('final returns', agents.final_returns)

  policy = lpg.load_policy(agents_dir, seed=0)
  print('pi(right|s)', policy.probabilities(jnp.arange(_LENGTH))[:, 1])


if __name__ == '__main__':
  main()
