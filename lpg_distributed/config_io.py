"""Configurations as JSON, and single fields by dotted names."""

import dataclasses
import difflib
import json
import typing
from typing import Any, Iterable, Mapping, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed import fields
from lpg_distributed import files
from lpg_distributed.envs import names

ConfigError = config_lib.ConfigError

# What may change when a run is resumed: it changes no number of the run.
RESUMABLE_FIELDS = (
    'run.meta_steps', 'run.num_workers', 'run.learner_speed',
    'run.checkpoint_period_steps', 'run.checkpoint_period_s',
    'run.checkpoints_kept', 'run.eta_snapshot_period_steps',
    'run.step_timeout_s', 'run.not_finite_limit', 'evaluator.',
)


def to_dict(config: config_lib.Config) -> dict[str, Any]:
  """All fields as JSON knows them."""
  return _plain(config)


def _plain(config: Any) -> dict[str, Any]:
  return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> config_lib.Config:
  """The reverse of `to_dict`; what is missing has its default.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  return build(config_lib.Config, values)


def _unknown(name: str, allowed: Iterable[str]) -> ConfigError:
  allowed = list(allowed)
  close = difflib.get_close_matches(name.rsplit('.', 1)[-1], allowed, 1)
  hint = f'did you mean {close[0]}? ' if close else ''
  return ConfigError(f'there is no field {name!r}; {hint}allowed: '
                     f'{", ".join(allowed)}')


def _require_group(values, prefix):
  if not isinstance(values, Mapping):
    raise ConfigError(f'{prefix.rstrip(".") or "the configuration"} is '
                      f'{values!r}; allowed: a group of fields')


def build(cls: type, values: Mapping[str, Any], prefix: str = '') -> Any:
  """A dataclass from a group of fields; what is missing has its default.

  Args:
    cls: the dataclass; its fields are plain, tuples, or groups themselves.
    values: by name.
    prefix: of names in messages.

  Raises:
    ConfigError: an unknown field, a value of another type, or one that the
      class refuses with this error.
  """
  _require_group(values, prefix)
  hints = typing.get_type_hints(cls)
  for name in values:
    if name not in hints:
      raise _unknown(prefix + name, hints)
  values = {name: _convert(hints[name], value, prefix + name)
            for name, value in values.items()}
  try:
    return cls(**values)
  except ConfigError as error:
    if not error.field:  # Of several fields, or of a group within.
      raise
    # Only here is it known of which environment an agent is.
    raise ConfigError(f'{prefix}{error.field} {error.problem}') from None


def _convert(hint, value, name):
  """`value`, from JSON or a flag's text, as the type of a field."""
  if dataclasses.is_dataclass(hint):
    return build(hint, value, name + '.')
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is tuple:
    if isinstance(value, str):
      value = [v.strip() for v in value.split(',') if v.strip()]
    if not isinstance(value, Sequence):
      raise ConfigError(f'{name} is {value!r}; allowed: a list')
    return tuple(_convert(args[0], v, name) for v in value)
  if origin is not None and issubclass(origin, typing.Mapping):
    _require_group(value, name)
    return {k: build(args[1], v, f'{name}.{k}.') for k, v in value.items()}
  return _convert_plain(hint, value, name)


def _convert_plain(hint, value, name):
  if hint is bool:
    text = str(value).lower()
    if text not in ('true', 'false', '1', '0'):
      raise ConfigError(f'{name} is {value!r}; allowed: true, false')
    return text in ('true', '1')
  if hint is str and isinstance(value, str):
    return value
  try:
    if hint is int and not isinstance(value, bool):
      return fields.parse_integer(value)
    if hint is float and not isinstance(value, bool):
      return float(value)
  except (TypeError, ValueError):
    pass
  kinds = {int: 'a whole number', float: 'a number', str: 'a text'}
  raise ConfigError(f'{name} is {value!r}; allowed: {kinds[hint]}')


def merge(base: config_lib.Config,
          changes: Mapping[str, Any]) -> config_lib.Config:
  """A configuration with some of its fields, in groups, replaced."""
  values = to_dict(base)
  _update(values, changes, '')
  return from_dict(values)


def _update(values, changes, prefix):
  _require_group(changes, prefix)
  for name, change in changes.items():
    if name not in values:
      if prefix != 'agents.' or not names.is_own(name):
        raise _unknown(prefix + name, values)
      # The row of an environment beside the suite's.
      values[name] = _plain(config_lib.AgentConfig())
    if isinstance(values[name], dict):
      _update(values[name], change, f'{prefix}{name}.')
    else:
      values[name] = change


def apply_overrides(base: config_lib.Config,
                    overrides: Sequence[str]) -> config_lib.Config:
  """Applies texts such as `meta.num_updates=3` or `environments=a,b`.

  `agents.*.` means every agent.
  """
  values = to_dict(base)
  for override in overrides:
    path, sign, value = override.partition('=')
    if not sign:
      raise ConfigError(f'{override!r} is no override; allowed: field=value')
    paths = [path]
    if path.startswith('agents.*.'):
      paths = [path.replace('*', name, 1) for name in values['agents']]
    for name in paths:
      *groups, field = _split(name.strip())
      change: Any = {field: value.strip()}
      for group in reversed(groups):
        change = {group: change}
      _update(values, change, '')
  return from_dict(values)


def _split(path: str) -> list[str]:
  """Parts of a dotted name; the name of an own module may have dots, too."""
  group, _, rest = path.partition('.')
  name, _, field = rest.rpartition('.')
  return [group, name, field] if group == 'agents' and name else path.split('.')


def load_file(base: config_lib.Config, path: str) -> config_lib.Config:
  """`base` with the fields that a JSON file has.

  Raises:
    ConfigError: no such file, no JSON, or bad fields; names the file.
  """
  try:
    changes = files.read_json(path)
  except (OSError, ValueError) as error:
    raise ConfigError(f'{path} is not readable as JSON: {error}') from None
  try:
    return merge(base, changes)
  except ConfigError as error:
    raise ConfigError(f'{path}: {error}') from None


def _flat(values, prefix=''):
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def difference(old: config_lib.Config, new: config_lib.Config) -> list[str]:
  """What differs and may not when a run is resumed: 'field: old -> new'."""
  before, after = dict(_flat(to_dict(old))), dict(_flat(to_dict(new)))
  return [f'{name}: {before.get(name)} -> {after.get(name)}'
          for name in sorted(before.keys() | after.keys())
          if before.get(name) != after.get(name)
          and not name.startswith(RESUMABLE_FIELDS)]
