"""Reads and writes configurations as JSON; sets fields by dotted names."""

import dataclasses
import difflib
import json
import typing
from typing import Any, Iterable, Mapping, Optional, Sequence

from lpg_distributed import config as config_lib
from lpg_distributed import fields
from lpg_distributed import files
from lpg_distributed import former_names
from lpg_distributed.envs import names

ConfigError = config_lib.ConfigError

# Fields that may change when a run is resumed; they change no result.
RESUMABLE_FIELDS = (
    'run.meta_steps', 'run.num_workers', 'run.learner_speed',
    'run.checkpoint_period_steps', 'run.checkpoint_period_s',
    'run.checkpoints_kept', 'run.eta_snapshot_period_steps',
    'run.step_timeout_s', 'run.not_finite_limit', 'evaluator.',
)
_RULE_OPTIONS = ('sees_age', 'reward_input')  # see `rule_to_dict`


def to_dict(config: config_lib.Config) -> dict[str, Any]:
  """Converts a configuration to JSON types."""
  return _plain(config)


def _plain(config: Any) -> dict[str, Any]:
  return json.loads(json.dumps(dataclasses.asdict(config)))


def rule_to_dict(rule: config_lib.RuleConfig) -> dict[str, Any]:
  """Converts a rule's configuration to JSON types.

  Options that are off are left out, so that files of rules without them are the
  same, byte by byte, as before there were such options.
  """
  defaults = config_lib.RuleConfig()
  return {name: value for name, value in _plain(rule).items()
          if name not in _RULE_OPTIONS or value != getattr(defaults, name)}


def from_dict(values: Mapping[str, Any]) -> config_lib.Config:
  """The inverse of `to_dict`; missing fields get their defaults.

  Former names of fields are read too, since files have them.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  return build(config_lib.Config, former_names.replace(values))


def _unknown(name: str, allowed: Iterable[str]) -> ConfigError:
  allowed = list(allowed)
  close = difflib.get_close_matches(
      former_names.today(name.rsplit('.', 1)[-1]), allowed, 1)
  hint = f'did you mean {close[0]}? ' if close else ''
  return ConfigError(f'there is no field {name!r}; {hint}allowed: '
                     f'{", ".join(allowed)}')


def _require_group(values, prefix):
  if not isinstance(values, Mapping):
    raise ConfigError(f'{prefix.rstrip(".") or "the configuration"} is '
                      f'{values!r}; allowed: a group of fields')


def build(cls: type, values: Mapping[str, Any], prefix: str = '') -> Any:
  """Builds a dataclass from values; missing fields get their defaults.

  Args:
    cls: the dataclass; its fields are plain values, tuples or dataclasses.
    values: values by field name.
    prefix: prefix of field names in messages.

  Raises:
    ConfigError: an unknown field, or a value that is not allowed.
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
    # Here the prefix is known, for example the environment of an agent.
    raise ConfigError(f'{prefix}{error.field} {error.problem}') from None


def _convert(hint, value, name):
  """Converts `value`, from JSON or a flag, to the type of a field."""
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
  except (TypeError, ValueError, OverflowError):
    pass
  kinds = {int: 'a whole number', float: 'a number', str: 'a text'}
  raise ConfigError(f'{name} is {value!r}; allowed: {kinds[hint]}')


def merge(base: config_lib.Config,
          changes: Mapping[str, Any]) -> config_lib.Config:
  """Returns `base` with some fields replaced; `changes` is nested by group."""
  values = to_dict(base)
  _update(values, changes, '')
  return from_dict(values)


def _update(values, changes, prefix):
  _require_group(changes, prefix)
  for name, change in changes.items():
    if name not in values:
      row = _new_row(name) if prefix == 'agents.' else None
      if row is None:
        raise _unknown(prefix + name, values)
      values[name] = row
    if isinstance(values[name], dict):
      _update(values[name], change, f'{prefix}{name}.')
    else:
      values[name] = change


def _new_row(name: str) -> Optional[dict[str, Any]]:
  """Returns the agent that a change of its fields starts from, or None."""
  if names.is_own(name):
    # Its optimiser, which may follow, decides on the learning rates.
    return {**_plain(config_lib.AgentConfig()), 'learning_rates': []}
  row = config_lib.AGENTS_BEYOND_THE_PAPER.get(name)
  return row and _plain(row)


def apply_overrides(base: config_lib.Config,
                    overrides: Sequence[str]) -> config_lib.Config:
  """Applies texts such as `meta.num_updates=3` or `environments=a,b`.

  `agents.*.` means the agents of all environments.
  """
  values = to_dict(base)
  for override in overrides:
    path, sign, value = override.partition('=')
    if not sign:
      raise ConfigError(f'{override!r} is no override; allowed: field=value')
    paths = [path]
    if path.startswith('agents.*.'):
      named = config_lib.rows_beyond_the_paper(
          _convert(tuple[str, ...], values['environments'], 'environments'))
      paths = [path.replace('*', name, 1)
               for name in {**values['agents'], **named}]
    for name in paths:
      *groups, field = _split(name.strip())
      change: Any = {field: value.strip()}
      for group in reversed(groups):
        change = {group: change}
      _update(values, change, '')
  return from_dict(values)


def _split(path: str) -> list[str]:
  """Splits a dotted name; names of the user's modules may contain dots."""
  group, _, rest = path.partition('.')
  name, _, field = rest.rpartition('.')
  return [group, name, field] if group == 'agents' and name else path.split('.')


def load_file(base: config_lib.Config, path: str) -> config_lib.Config:
  """Returns `base` with the fields in a JSON file replaced.

  Raises:
    ConfigError: the file cannot be read, is not JSON, or has bad fields.
  """
  try:
    changes = former_names.replace(files.read_json(path))
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
  """Lists changes that a resumed run does not allow: 'field: old -> new'."""
  before, after = dict(_flat(to_dict(old))), dict(_flat(to_dict(new)))
  return [f'{name}: {before.get(name)} -> {after.get(name)}'
          for name in sorted(before.keys() | after.keys())
          if before.get(name) != after.get(name)
          and not name.startswith(RESUMABLE_FIELDS)]
