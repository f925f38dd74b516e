"""Jobs for the tests of sessions; as a program, a job that tests can kill."""

import sys
import time

import dm_env
from dm_env import specs
import jax
import numpy as np

from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import run_record
from lpg_distributed.meta_testing import session


class Corridor(dm_env.Environment):
  """Five cells: the right end gives a reward of 1, each step costs 0.1."""

  def observation_spec(self):
    return specs.BoundedArray((5, 1), np.float32, 0., 1.)

  def action_spec(self):
    return specs.DiscreteArray(2)

  def _observe(self):
    return np.eye(5, dtype=np.float32)[self._cell][:, None]

  def reset(self):
    self._cell, self._time = 0, 0
    return dm_env.restart(self._observe())

  def step(self, action):
    self._cell = max(0, self._cell + (1 if action else -1))
    self._time += 1
    if self._cell == 4 or self._time == 20:
      return dm_env.termination(float(self._cell == 4), self._observe())
    return dm_env.transition(-0.1, self._observe())


HOST = 'module/tests.meta_testing.session_testing:Corridor'
JITTED = 'module/tests.meta_testing.session_testing:chain'


def chain():
  from lpg_distributed.envs import suite
  return suite.load('chain_short')


def make_job(environment, rule='a2c', **arguments):
  return jobs.make_job(environment, rule, **{
      'seeds': (0, 1), 'env_steps': 1000, 'num_envs': 2,
      'overrides': ['trajectory_steps=5', 'learning_rate=0.01'], **arguments})


if __name__ == '__main__':
  jax.config.update('jax_disable_most_optimizations', True)
  run_record.CHECKPOINT_PERIOD_S = 0.

  def watch(status):
    print(status.seed, status.env_steps, flush=True)
    time.sleep(0.02)

  session.run(make_job(sys.argv[1]), sys.argv[2], watch=watch)
