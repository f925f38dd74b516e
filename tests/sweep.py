"""Trains agents on every environment of gymnax, bsuite and gymnasium.

  python -m tests.sweep --output=docs/environments_tried.md

Each environment is first stepped beside the object that its own package makes:
observations, rewards and ends must be the same. Then `a2c` and a published rule
train agents on it for some updates, as `lpg meta-test` does. It works, or one
line says why it is refused. Anything else counts as a failure.

Of bsuite, which has several settings of each experiment, the first and the last
setting are tried. `--only` takes identifiers, or beginnings of them.
"""

import argparse
from concurrent import futures
import importlib.metadata
import json
import logging
import math
import multiprocessing
import pathlib
import platform
import sys
import tempfile
import traceback
import warnings

import numpy as np

from lpg_distributed import errors
from lpg_distributed.envs import registry

WORKS = 'works'
RULES = (('a2c', None), ('lpg', 'all_kinds_pi'))
NUM_ENVS, NUM_STEPS, NUM_UPDATES = 3, 5, 4
NUM_COMPARED = 8  # steps beside the package's own object
_PACKAGES = ('gymnax', 'bsuite', 'gymnasium')
_MOST_SECONDS = 900.  # for one environment, on a busy machine
_SEED = 7


def identifiers() -> list[str]:
  """Returns the identifiers of all environments of the installed packages."""
  from bsuite import sweep
  import gymnasium
  import gymnax
  settings = {}
  for name in sweep.SWEEP:
    settings.setdefault(name.split('/')[0], []).append(name)
  return [
      *(f'gymnax/{name}' for name in sorted(gymnax.registered_envs)),
      *(f'bsuite/{name}' for _, names in sorted(settings.items())
        for name in dict.fromkeys((names[0], names[-1]))),
      *(f'gymnasium/{name}' for name in sorted(
          name for name, spec in gymnasium.registry.items()
          if not str(spec.entry_point).startswith('ale_py'))),
      'gymnasium/ALE/Pong-v5']


def _same(what: str, found, expected) -> None:
  found, expected = np.asarray(found), np.asarray(expected)
  # Types may differ, as float64 and float32 do; numbers may not.
  if found.shape != expected.shape or not np.allclose(
      found.astype(np.float64), expected.astype(np.float64), rtol=1e-6,
      atol=1e-6):
    raise AssertionError(f'{what} is {found}, and {expected} in the package')


def _compare_gymnax(name: str, environment) -> None:
  import gymnax
  import jax
  raw, params = gymnax.make(name)
  key = jax.random.PRNGKey(_SEED)
  own_params = environment.init_params(key)
  expected, raw_state = raw.reset(key, params)
  state, observation = environment.reset(own_params, key)
  _same('the first observation', observation, expected)
  for i in range(NUM_COMPARED):
    key, action = jax.random.fold_in(key, i), np.int32(i % raw.num_actions)
    expected, raw_state, reward, *ends, _ = raw.step(
        key, raw_state, action, params)
    state, found = environment.step(own_params, state, action, key)
    _same('an observation', found.observation, expected)
    _same('a reward', found.reward, reward)
    _same('an end', found.discount == 0., any(map(bool, ends)))


class _Dm:
  """A `dm_env.Environment` of bsuite, as a tuple per step."""

  def __init__(self, name: str, seed: int):
    self._environment = registry._bsuite_factory(name)(seed)

  def reset(self):
    return self._environment.reset().observation

  def step(self, action):
    step = self._environment.step(action)
    return step.observation, step.reward, step.last()


class _Gymnasium:
  """The same of a `gymnasium.Env`."""

  def __init__(self, name: str, seed: int):
    self._environment = registry.make_gymnasium(name)
    self._seed = seed
    self._first = getattr(self._environment.observation_space, 'start', 0)

  def reset(self):
    seed, self._seed = self._seed, None
    return self._environment.reset(seed=seed)[0] - self._first

  def step(self, action):
    observation, reward, terminated, truncated, _ = self._environment.step(
        action + self._environment.action_space.start)
    return observation - self._first, reward, terminated or truncated


def _compare_host(kind: str, name: str, batch) -> None:
  seed = int(np.random.SeedSequence(_SEED).generate_state(1)[0]) >> 1
  raw = (_Dm if kind == 'bsuite' else _Gymnasium)(name, seed)
  _same('the first observation', batch.reset(_SEED)[0], raw.reset())
  for i in range(NUM_COMPARED):
    action = i % int(batch.action_spec().num_values)
    found = batch.step(np.full(batch.num_envs, action, np.int32))
    expected, reward, ended = raw.step(action)
    _same('an observation', found.observation[0],
          raw.reset() if ended else expected)
    _same('a reward', found.reward[0], reward)
    _same('an end', found.discount[0] == 0., bool(ended))


def compare(env_id: str) -> None:
  """Raises AssertionError if agents see other numbers than the package's."""
  kind, name = registry.split(env_id)
  loaded = registry.load(env_id)
  if loaded.jax is not None:
    _compare_gymnax(name, loaded.jax)
  else:
    batch = loaded.make_host(1)
    try:
      _compare_host(kind, name, batch)
    finally:
      batch.close()


def train(env_id: str, rule: str, eta: str | None) -> None:
  """Trains an agent for some updates, by the function of `lpg meta-test`.

  Raises:
    UserError: it is refused.
    AssertionError: the result is not what was asked for.
  """
  from lpg_distributed.meta_testing import jobs
  from lpg_distributed.meta_testing import results
  from lpg_distributed.meta_testing import session
  env_steps = NUM_ENVS * NUM_STEPS * NUM_UPDATES
  job = jobs.make_job(env_id, rule, eta=eta, num_envs=NUM_ENVS,
                      env_steps=env_steps,
                      overrides=[f'trajectory_steps={NUM_STEPS}'])
  with tempfile.TemporaryDirectory() as directory:
    assert session.run(job, directory), 'it stopped'
    rows = results.read(directory).rows
    last = rows[-1]
    assert last['env_steps'] == env_steps, f'{last["env_steps"]} steps'
    assert not last.get('diverged'), 'it diverged'
    for row in rows:
      assert all(math.isfinite(x) for x in row.values() if x is not None)


def _failed(error: Exception) -> str:
  traceback.print_exception(error)
  return f'FAILED: {type(error).__name__}: {error}'


def try_one(env_id: str) -> str:
  """Returns `WORKS`, a refusal in one line, or FAILED with the reason."""
  try:
    compare(env_id)
  except (errors.UserError, ImportError, ValueError):
    pass  # It is refused; training says so, too.
  except Exception as error:  # What the sweep is for.
    return _failed(error)
  found = []
  for rule, eta in RULES:
    try:
      train(env_id, rule, eta)
      found.append(WORKS)
    except errors.UserError as error:
      found.append(str(error))
    except Exception as error:
      return _failed(error)
  lines = list(dict.fromkeys(found))
  if len(lines) > 1 or '\n' in lines[0]:
    return f'FAILED: not one line: {lines}'
  return lines[0]


def _quiet() -> None:
  """Leaves out what packages say of themselves."""
  import jax
  warnings.simplefilter('ignore')
  logging.disable(logging.WARNING)
  jax.config.update('jax_disable_most_optimizations', True)


def try_all(env_ids: list[str], say=lambda text: None) -> dict[str, str]:
  """Tries environments in a process that is begun anew if one ends it."""
  found, pool = {}, None
  for env_id in env_ids:
    pool = pool or futures.ProcessPoolExecutor(
        1, multiprocessing.get_context('spawn'), _quiet)
    try:
      found[env_id] = pool.submit(try_one, env_id).result(_MOST_SECONDS)
    except (futures.TimeoutError, futures.BrokenExecutor) as error:
      found[env_id] = f'FAILED: {type(error).__name__}'
      for process in list((pool._processes or {}).values()):
        process.kill()
      pool.shutdown(wait=False)
      pool = None
    say(f'{env_id}: {found[env_id]}')
  if pool is not None:
    pool.shutdown()
  return found


def _cell(text: str) -> str:
  return ' '.join(text.split()).replace('|', '\\|')


def page(found: dict[str, str]) -> str:
  """Returns the page of the documentation."""
  versions = ', '.join(f'{name} {importlib.metadata.version(name)}'
                       for name in _PACKAGES)
  working = sum(line == WORKS for line in found.values())
  rows = [f'| `{env_id}` | {_cell(line)} |' for env_id, line in found.items()]
  return '\n'.join([
      '# Environments that were tried', '',
      'This page is written by `python -m tests.sweep '
      '--output=docs/environments_tried.md`, here on Python '
      f'{platform.python_version()} with {versions}.', '',
      'Each environment was stepped beside the object of its own package: '
      'observations, rewards and ends are the same. Then `a2c` and '
      f'`all_kinds_pi` trained an agent each, for {NUM_UPDATES} updates, as '
      f'`lpg meta-test` does. {working} of {len(found)} work. "Works" says '
      'that this ran, and nothing about learning.', '',
      'The others are refused in the line that is shown: for continuous '
      'actions, for observations that are not one array, or because something '
      'was not at hand, such as MuJoCo, Box2D or the data of MNIST.', '',
      'Of bsuite the first and the last setting of each experiment are here.',
      '', '| `--env` | |', '|---|---|', *rows, ''])


def rows(text: str) -> dict[str, str]:
  """Reads the table of a page: lines by environment."""
  found = {}
  for line in text.partition('\n## ')[0].splitlines():
    if line.startswith('| `') and '/' in line:
      env_id, _, cell = line[3:-2].partition('` | ')
      found[env_id] = cell.replace('\\|', '|')
  found.pop('--env', None)
  return found


def _written_by_hand(path: pathlib.Path) -> str:
  """Returns the sections behind the table of an earlier page."""
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  _, heading, sections = text.partition('\n## ')
  return heading + sections


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', type=pathlib.Path,
                      help='where the page goes; else lines are printed')
  parser.add_argument('--only', default='',
                      help='beginnings of identifiers, as gymnax/,bsuite/')
  arguments = parser.parse_args()
  wanted = tuple(arguments.only.split(','))
  found = try_all([env_id for env_id in identifiers()
                   if env_id.startswith(wanted)],
                  lambda text: print(text, file=sys.stderr, flush=True))
  if arguments.output:
    arguments.output.write_text(
        page(found) + _written_by_hand(arguments.output), encoding='utf-8')
  else:
    print(json.dumps(found, indent=2))
  return any(line.startswith('FAILED') for line in found.values())


if __name__ == '__main__':
  sys.exit(main())
