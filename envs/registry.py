"""Environments by identifier, as `gymnax/CartPole-v1`: a kind, then a name.

    atari/GAME              one of the 57, by ALE
    gymnax/NAME             pure JAX
    bsuite/EXPERIMENT/N     DeepMind's behaviour suite, through dm_env
    gymnasium/ID            any registered id
    module/PACKAGE.MODULE:FUNCTION    your own; see `docs/meta_testing.md`

A pure-JAX environment (`base.Environment`) runs in a compiled loop; all others
are batches on the host (`host.HostEnvironment`).
"""

import contextlib
import importlib
import inspect
import io
import os
import sys
from typing import Any, Callable, NamedTuple, Optional

from lpg_distributed.envs import base
from lpg_distributed.envs import host
from lpg_distributed.envs import host_batch

KINDS = ('atari', 'gymnax', 'bsuite', 'gymnasium', 'module')


class Loaded(NamedTuple):
  """An environment, ready for a loop."""
  kind: str  # one of KINDS
  # The pure-JAX environment; or None, and from B to a batch on the host.
  jax: Optional[base.Environment]
  make_host: Optional[Callable[[int], host.HostEnvironment]]
  # (B, number of groups) to batches that are one together, for threads.
  make_groups: Optional[Callable[[int, int],
                                 list[host.HostEnvironment]]] = None


def split(env_id: str) -> tuple[str, str]:
  """Kind and name of an identifier.

  Raises:
    ValueError: it has none; the message is one line.
  """
  kind, _, name = env_id.partition('/')
  if kind in KINDS and name:
    return kind, name
  from lpg_distributed.envs import atari
  hint = (f'did you mean atari/{env_id}? ' if env_id in atari.games()
          else '')
  raise ValueError(f'{env_id!r} names no environment; {hint}allowed: KIND/NAME '
                   f'with KIND one of {", ".join(KINDS)}')


def _load_atari(name: str, preset: str) -> Loaded:
  from lpg_distributed.envs import atari
  atari.check_game(name)
  if preset not in atari.PRESETS:
    raise ValueError(f'unknown preset {preset!r}; allowed: '
                     f'{", ".join(atari.PRESETS)}')
  return Loaded(
      'atari', None,
      lambda num_envs: atari.AtariEnvironment(name, num_envs, preset),
      lambda num_envs, num_groups: atari.make_groups(
          name, num_envs, num_groups, preset))


def _load_gymnax(name: str) -> Loaded:
  from lpg_distributed.envs import gymnax_adapter
  return Loaded('gymnax', gymnax_adapter.load(name), None)


def _bsuite_factory(name: str) -> Callable[[int], Any]:
  """A factory with a seed: bsuite's own settings leave most of them open."""
  try:
    from bsuite import bsuite
    from bsuite import sweep
  except ImportError as error:
    raise ImportError(
        f'bsuite environments need bsuite, which cannot be imported ({error}); '
        'install it with: pip install bsuite') from None
  if name not in sweep.SETTINGS:
    experiments = ', '.join(sorted(bsuite.EXPERIMENT_NAME_TO_ENVIRONMENT))
    raise ValueError(f'bsuite has no id {name!r}; allowed: EXPERIMENT/N, for '
                     f'example catch/0, with EXPERIMENT one of {experiments}')
  experiment, _ = bsuite.unpack_bsuite_id(name)
  settings = sweep.SETTINGS[name]
  make_one = bsuite.EXPERIMENT_NAME_TO_ENVIRONMENT[experiment]
  takes_seed = 'seed' in inspect.signature(make_one).parameters

  def factory(seed):
    seeded = {'seed': seed % 2 ** 31} if takes_seed else {}
    return bsuite.load(experiment, {**settings, **seeded})

  return factory


def _load_bsuite(name: str) -> Loaded:
  factory = _bsuite_factory(name)
  return Loaded('bsuite', None, lambda num_envs: host_batch.HostBatch(
      factory, num_envs, f'bsuite/{name}'))


def make_gymnasium(name: str, **arguments: Any) -> Any:
  """`gymnasium.make` whose errors are one line.

  Raises:
    ValueError: gymnasium does not know the id, or cannot make it.
  """
  try:
    import gymnasium
  except ImportError as error:
    raise ImportError(
        'gymnasium environments need gymnasium, which cannot be imported '
        f'({error}); install it with: pip install gymnasium') from None
  # It also prints warnings about versions to the standard error.
  with contextlib.redirect_stderr(io.StringIO()):
    try:
      return gymnasium.make(name, **arguments)
    except Exception as error:  # pylint: disable=broad-except
      reason = ' '.join(str(error).split()) or type(error).__name__
      raise ValueError(f'gymnasium cannot make {name!r}: {reason}') from None


def _load_gymnasium(name: str) -> Loaded:
  return Loaded('gymnasium', None, lambda num_envs: host_batch.HostBatch(
      lambda: make_gymnasium(name), num_envs, f'gymnasium/{name}'))


def _import_function(path: str) -> Callable[..., Any]:
  module_name, _, function_name = path.partition(':')
  if not function_name:
    raise ValueError(f'module/{path} names no function; allowed: '
                     'module/PACKAGE.MODULE:FUNCTION')
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())  # Where `python -m` looks, too.
  try:
    module = importlib.import_module(module_name)
  except ImportError as error:
    raise ValueError(f'module {module_name!r} cannot be imported '
                     f'({error})') from None
  function = getattr(module, function_name, None)
  if not callable(function):
    raise ValueError(f'module {module_name!r} has no function '
                     f'{function_name!r}')
  return function


def _as_jax(made: Any, name: str) -> Optional[base.Environment]:
  """The pure-JAX environment that was made, if it is one."""
  if all(hasattr(made, method) for method in
         ('init_params', 'action_mask', 'observation_spec', 'step')):
    return made
  if hasattr(made, 'step_env') and hasattr(made, 'default_params'):
    from lpg_distributed.envs import gymnax_adapter
    return gymnax_adapter.GymnaxEnvironment(name, made, made.default_params)
  return None


def _load_module(name: str) -> Loaded:
  function = _import_function(name)
  host_name = f'module/{name}'
  made = function()
  environment = _as_jax(made, name)
  if environment is not None:
    return Loaded('module', environment, None)
  if hasattr(made, 'close'):
    made.close()
  return Loaded('module', None, lambda num_envs: host_batch.HostBatch(
      function, num_envs, host_name))


def load(env_id: str, preset: str = 'dm_noop') -> Loaded:
  """Finds the environment of an identifier; see the module's text.

  Args:
    env_id: kind and name.
    preset: the evaluation protocol, of Atari only; see `atari.PRESETS`.

  Raises:
    ValueError: there is none, or it does not fit; the message is one line.
    ImportError: the package that it needs is not installed.
  """
  kind, name = split(env_id)
  if kind == 'atari':
    return _load_atari(name, preset)
  return {'gymnax': _load_gymnax, 'bsuite': _load_bsuite,
          'gymnasium': _load_gymnasium, 'module': _load_module}[kind](name)
