"""Environments by identifier KIND/NAME, such as `gymnax/CartPole-v1`.

    atari/GAME              one of the 57, by ALE
    gymnax/NAME             pure JAX
    bsuite/EXPERIMENT/N     DeepMind's behaviour suite, through dm_env
    gymnasium/ID            any registered id
    module/PACKAGE.MODULE:FUNCTION    your own; see `docs/meta_testing.md`

A pure-JAX environment (`base.Environment`) runs in a compiled loop; all others
are batches on the host (`host.HostEnvironment`).
"""

import contextlib
import functools
import inspect
import io
from typing import Any, Callable, NamedTuple, Optional

import jax
import numpy as np

from lpg_distributed.envs import base
from lpg_distributed.envs import host
from lpg_distributed.envs import host_batch
from lpg_distributed.envs import names
from lpg_distributed.envs import protocol
from lpg_distributed.envs import suite
from lpg_distributed.envs import user_module

KINDS = ('atari', 'gymnax', 'bsuite', 'gymnasium', 'module')


class LoadedEnvironment(NamedTuple):
  """A loaded environment: pure JAX, or on the host."""
  kind: str  # one of KINDS
  # The pure-JAX environment; or None, and from B to a batch on the host.
  jax: Optional[base.Environment]
  make_host: Optional[Callable[[int], host.HostEnvironment]]
  # (B, number of groups) to batches that are one together, for threads.
  make_groups: Optional[Callable[[int, int],
                                 list[host.HostEnvironment]]] = None


def split(env_id: str) -> tuple[str, str]:
  """Splits an identifier into kind and name.

  Raises:
    ValueError: it has none; the message is one line.
  """
  if not isinstance(env_id, str):
    raise ValueError(
        f'an environment of type {type(env_id).__name__}; allowed: a name such '
        'as gymnax/Catch-bsuite; for your own module/PACKAGE.MODULE:FUNCTION')
  kind, _, name = env_id.partition('/')
  if kind in KINDS and name:
    return kind, name
  from lpg_distributed.envs import atari
  hint = (f'did you mean atari/{env_id}? ' if env_id in atari.games()
          else '')
  raise ValueError(f'{env_id!r} names no environment; {hint}allowed: KIND/NAME '
                   f'with KIND one of {", ".join(KINDS)}')


def _load_atari(name: str, preset: str) -> LoadedEnvironment:
  from lpg_distributed.envs import atari
  atari.check_game(name)
  if preset not in atari.PRESETS:
    raise ValueError(f'unknown preset {preset!r}; allowed: '
                     f'{", ".join(atari.PRESETS)}')
  return LoadedEnvironment(
      'atari', None,
      lambda num_envs: atari.AtariEnvironment(name, num_envs, preset),
      lambda num_envs, num_groups: atari.make_groups(
          name, num_envs, num_groups, preset))


def _load_gymnax(name: str) -> LoadedEnvironment:
  from lpg_distributed.envs import gymnax_adapter
  return LoadedEnvironment('gymnax', gymnax_adapter.load(name), None)


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
    seed %= 2 ** 31
    seeded = {'seed': seed} if takes_seed else {}
    made = bsuite.load(experiment, {**settings, **seeded})
    if experiment == 'deep_sea_stochastic':  # Its `load` hides the seed.
      made._rng = np.random.RandomState(seed)
    return made

  return factory


def _load_bsuite(name: str) -> LoadedEnvironment:
  factory = _bsuite_factory(name)
  return LoadedEnvironment(
      'bsuite', None, lambda num_envs: host_batch.HostBatch(
          factory, num_envs, f'bsuite/{name}'))


def make_gymnasium(name: str, **arguments: Any) -> Any:
  """`gymnasium.make` whose errors are one line.

  Raises:
    EnvironmentFailure: gymnasium does not know the id, or cannot make it.
  """
  try:
    import gymnasium
  except ImportError as error:
    raise ImportError(
        'gymnasium environments need gymnasium, which cannot be imported '
        f'({error}); install it with: pip install gymnasium') from None
  # It also prints warnings about versions to standard error.
  with contextlib.redirect_stderr(io.StringIO()):
    try:
      if name.startswith('ALE/'):
        import ale_py
        gymnasium.register_envs(ale_py)
      return gymnasium.make(name, **arguments)
    except Exception as error:  # pylint: disable=broad-except
      raise host.EnvironmentFailure(
          f'gymnasium cannot make {name!r}: {user_module.one_line(error)}; '
          'allowed: a registered id, or PACKAGE:ID where an import of PACKAGE '
          'registers it') from None


def _load_gymnasium(name: str) -> LoadedEnvironment:
  return LoadedEnvironment(
      'gymnasium', None, lambda num_envs: host_batch.HostBatch(
          lambda: make_gymnasium(name), num_envs, f'gymnasium/{name}'))


def _make_own(function: Callable[..., Any], path: str, seed: int) -> Any:
  """Calls the user's function, with `seed=` if it has that parameter."""
  arguments = {'seed': seed} if host_batch.takes_seed(function) else {}
  return user_module.call(function, path, **arguments)


def _as_jax(made: Any, name: str) -> Optional[base.Environment]:
  """Returns a made environment if it is pure JAX, else None."""
  if hasattr(made, 'step_env') and hasattr(made, 'reset_env'):
    from lpg_distributed.envs import gymnax_adapter
    return gymnax_adapter.wrap(made, name)
  if protocol.is_complete(made) or protocol.looks_like_jax(made):
    environment = protocol.complete(made, name)
    protocol.check_types(environment)
    return environment
  return None


def _load_module(name: str) -> LoadedEnvironment:
  function = user_module.load_function(name)
  host_name = f'module/{name}'
  made = _make_own(function, name, 0)
  environment = _as_jax(made, host_name)
  if environment is not None:
    return LoadedEnvironment('module', environment, None)
  if callable(getattr(made, 'close', None)):
    with contextlib.suppress(Exception):  # It was made only to find its kind.
      made.close()
  make = functools.partial(_make_own, function, name)
  return LoadedEnvironment(
      'module', None, lambda num_envs: host_batch.HostBatch(
          lambda seed: make(seed), num_envs, host_name))


def load(env_id: str, preset: str = 'dm_noop') -> LoadedEnvironment:
  """Loads the environment of an identifier; see the module docstring.

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


# Environments given to `api.meta_train`, by name.
_OBJECTS: dict[str, base.Environment] = {}


def register(made: Any) -> str:
  """Registers an environment object in this process; returns its name.

  Raises:
    ValueError: it is none; the message is one line.
  """
  label = getattr(made, 'name', None)
  if not isinstance(label, str) or not label:
    label = type(made).__name__
  name = f'{names.OBJECT}/{label}'
  environment = _as_jax(made, name)
  if environment is None:
    raise ValueError(f'{label} has no reset(params, key) and step(params, '
                     'state, action, key); see docs/own_environment.md')
  _OBJECTS[name] = environment
  return name


def load_trainable(name: str) -> base.Environment:
  """Loads an environment for meta-training; see `names`.

  Args:
    name: as in `Config.environments`.

  Raises:
    ValueError: there is none, or JAX cannot compile it; the message is one
      line.
    ImportError: the package that it needs is not installed.
  """
  if name in suite.ALL:
    return suite.load(name)
  names.check_trainable(name, (name,))
  if name.startswith(f'{names.OBJECT}/'):
    if name not in _OBJECTS:
      raise ValueError(f'{name} was an object in another Python process; '
                       'allowed here: module/PACKAGE.MODULE:FUNCTION')
    return _OBJECTS[name]
  with jax.ensure_compile_time_eval():  # The caller may be in a trace.
    environment = load(name).jax
  if environment is None:
    raise ValueError(f'{name} is not a JAX environment, with reset(params, '
                     'key) and step(params, state, action, key); see '
                     'docs/own_environment.md')
  return environment
