"""Process-wide settings of JAX and Python that change results.

The user may have set them for other work. Commands remove them, and the Python
interface refuses them. A run directory records the others, so that a run that
resumes under other settings warns. Uses only the standard library.
"""

import os
import sys
from typing import Any, Mapping

from lpg_distributed import errors

# Settings of JAX and their required values. Others change numbers or types.
_NUMBERS = {
    'jax_enable_x64': False,
    'jax_default_prng_impl': 'threefry2x32',
    'jax_random_seed_offset': 0,
    'jax_enable_custom_prng': False,
    'jax_legacy_prng_key': 'allow',
    'jax_numpy_dtype_promotion': 'standard',
}
# Settings under which training fails or takes hours: NaN marks missing values
# here, and keys are reused and ranks promoted on purpose.
_PROGRAMS = {
    'jax_disable_jit': False,
    'jax_debug_nans': False,
    'jax_debug_infs': False,
    'jax_debug_key_reuse': False,
    'jax_check_tracer_leaks': False,
    'jax_numpy_rank_promotion': 'allow',
}
# Environment variables that commands remove: the settings above, and more.
# PYTHONOPTIMIZE, since Haiku needs the docstrings that level 2 removes.
REMOVED = ('PYTHONOPTIMIZE', *(name.upper() for name in (
    *_NUMBERS, *_PROGRAMS, 'jax_default_dtype_bits',
    'jax_threefry_partitionable', 'jax_softmax_custom_jvp',
    'jax_dynamic_shapes', 'jax_enable_checks', 'jax_use_direct_linearize',
    'jax_transfer_guard', 'jax_no_tracing')))
# Environment variables and settings of JAX that a run records.
_VARIABLES = ('NPROC', 'OMP_NUM_THREADS', 'XLA_FLAGS', 'JAX_PLATFORMS',
              'NVIDIA_TF32_OVERRIDE')
_OF_JAX = (*_NUMBERS, 'jax_default_matmul_precision',
           'jax_disable_most_optimizations')
_YES, _NO = ('1', 'true', 't', 'yes', 'on'), ('', '0', 'false', 'no', 'off')


class SettingsError(errors.UserError, ValueError):
  """A global setting is not supported; the message is one line."""


def _value(name: str, default: Any) -> Any:
  """Returns a setting of JAX; `default` if this JAX does not have it.

  If JAX is not imported yet, returns the value that JAX will read.
  """
  jax = sys.modules.get('jax')
  if jax is not None:
    # A setting without an attribute is only in `values`.
    value = getattr(jax.config, name, jax.config.values.get(name, default))
    return getattr(value, 'value', value)  # Some are enumerations.
  text = os.environ.get(name.upper())
  if text is None:
    return default
  return (True if text.lower() in _YES else False if text.lower() in _NO
          else text)


def check(trains: bool = False) -> None:
  """Refuses settings of JAX under which results would be wrong or missing.

  Args:
    trains: whether agents are trained, not only a rule applied.

  Raises:
    SettingsError: a setting has another value than the required one.
  """
  import jax  # noqa: F401  # So that its settings exist.
  for name, allowed in {**_NUMBERS, **(_PROGRAMS if trains else {})}.items():
    value = _value(name, allowed)
    if value != allowed:
      raise SettingsError(
          f'{name} is {value!r}; allowed: {allowed!r} '
          f'(jax.config.update({name!r}, {allowed!r}))')


def recorded() -> dict[str, str]:
  """Returns the settings that may change results, as text, if set."""
  found = {name: os.environ[name] for name in _VARIABLES
           if os.environ.get(name)}
  for name in _OF_JAX:
    default = _NUMBERS.get(name)
    value = _value(name, default)
    if value not in (default, None, False):
      found[name] = str(value)
  return found


def differences(before: Mapping[str, Any],
                now: Mapping[str, Any]) -> list[str]:
  """Returns the settings that differ, as `name: value -> value`."""
  names = [*before, *(name for name in now if name not in before)]
  return [f'{name}: {before.get(name, "not set")} -> '
          f'{now.get(name, "not set")}' for name in names
          if before.get(name) != now.get(name)]
