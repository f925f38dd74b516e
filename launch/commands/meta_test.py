"""Trains agents by a rule.

  lpg meta-test --env=gymnax/CartPole-v1 --eta=all_kinds_pi

Environments: atari/GAME, gymnax/NAME, bsuite/EXPERIMENT/N, gymnasium/ID,
module/PACKAGE.MODULE:FUNCTION.
The same command resumes a job that was stopped or killed.
"""

import os
import sys

from absl import flags

from lpg_distributed.envs import atari
from lpg_distributed.launch import agent_flags
from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch import stopping

_ENV = flags.DEFINE_string('env', None, 'the environment, as KIND/NAME')
_agent_arguments = agent_flags.define()
_PRESET = flags.DEFINE_string('preset', None, 'on Atari: dm_noop or '
                              'machado')
_SEEDS = flags.DEFINE_list('seeds', ['0'], 'seeds, one agent each, as 0,1,2')
_ENV_STEPS = flags.DEFINE_integer(
    'env_steps', None, 'environment steps of each agent, over its parallel '
    'environments; default: 500,000 on gymnax, 2,500,000 on Atari, else '
    '100,000')
_FRAMES = flags.DEFINE_integer(
    'frames', None, 'on Atari, in place of --env_steps: four per step')
_NUM_ENVS = flags.DEFINE_integer('num_envs', None, 'parallel environments')
_RUN_DIR = flags.DEFINE_string(
    'run_dir', None, 'where results go; default: '
    'runs/meta_test/<environment>_<rule>_seed<first seed>')

_RENDER = flags.DEFINE_string(
    'render', None, 'at the end, write an episode to FILE.gif')


def _make_job():
  from lpg_distributed.meta_testing import jobs
  if not _ENV.value:
    raise command.UsageError('--env is missing; allowed: KIND/NAME, as '
                             'gymnax/CartPole-v1')
  env_steps = _ENV_STEPS.value
  if _FRAMES.value is not None:
    if env_steps is not None or not _ENV.value.startswith('atari/'):
      raise command.UsageError('--frames is for Atari, in place of '
                               '--env_steps')
    env_steps = -(-_FRAMES.value // atari.AtariEnvironment.frames_per_step)
  return jobs.make_job(
      _ENV.value, seeds=command.parse_seeds(_SEEDS.value),
      env_steps=env_steps, num_envs=_NUM_ENVS.value, preset=_PRESET.value,
      **_agent_arguments())


def main() -> int:
  job = _make_job()
  process_environment.ensure(process_environment.WORKER)
  # What brings JAX comes after all that can be wrong with a command.
  from lpg_distributed.launch import progress
  from lpg_distributed.meta_testing import jobs
  from lpg_distributed.meta_testing import render
  from lpg_distributed.meta_testing import session
  if _RENDER.value:
    render.check(job, _RENDER.value)
  directory = _RUN_DIR.value or jobs.default_directory(job)
  with stopping.Stopping() as stop, progress.ProgressDisplay() as display:
    done = session.run(job, directory, stop.event,
                       progress.make_watch(job, display),
                       warn=command.warn, end_process=stop.end)
  if not done:
    print('stopped; the same command resumes', file=sys.stderr)
    return stop.exit_code
  from lpg_distributed.meta_testing import summary
  for line in summary.lines(directory):
    print(line)
  if _RENDER.value:
    render.render(job, directory, _RENDER.value)
    print(f'animation: {os.path.relpath(_RENDER.value)}')
  print(f'result: {os.path.relpath(directory)}')
  return 0


if __name__ == '__main__':
  command.run(main)
