"""What shall be meta-tested: environment, rule, settings, seeds, length."""

import dataclasses
import hashlib
import os
import re
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed.core.update_rules import registry as rule_registry
from lpg_distributed.envs import registry
from lpg_distributed.meta_testing import settings as settings_lib
from lpg_distributed.store import eta_file
from lpg_distributed.store import published


class JobError(errors.UserError, ValueError):
  """A job that cannot be done; the message is one line."""


# Per kind of environment: how many are parallel, and what is not Table 4's.
# A flag or an argument overrides each.
NUM_ENVS: Mapping[str, int] = {
    'atari': 30,  # Table 4
    'gymnax': 32,  # near Table 4's; a power of two fills vectors
    'bsuite': 16,  # stepped one after another in Python
    'gymnasium': 16,
    'module': 16,
}
DEFAULT_ENV_STEPS: Mapping[str, int] = {
    'atari': 2_500_000,  # 10 million frames
    'gymnax': 500_000, 'bsuite': 100_000, 'gymnasium': 100_000,
    'module': 100_000,
}
# Rewards are clipped on Atari only: those of the others are of order 1 as
# they come, and small costs and large prizes shall stay apart.
_MAX_ABS_REWARD = {'atari': 1.}
# The learning rate of Table 4 belongs to its network of 1.7 million weights.
# Small networks learn with larger ones: between the rates of Table 3's
# networks, 0.0005 to 0.01.
_LEARNING_RATE = {'atari': 5e-4}
_SMALL_LEARNING_RATE = 2e-3


@dataclasses.dataclass(frozen=True)
class Job:
  """One result file: some agents, alike but for their seeds."""
  environment: str  # see `envs.registry`
  rule: str  # see `core.update_rules.registry.names`
  env_steps: int  # of each agent, over its parallel environments
  num_envs: int
  settings: settings_lib.Settings
  seeds: tuple[int, ...] = (0,)
  preset: Optional[str] = None  # of Atari only
  eta: Optional[str] = None  # a published name, or an absolute path
  # Of what `eta` holds, or of what is drawn for the rule `random`.
  rule_config: Optional[config_lib.RuleConfig] = None
  eta_sha256: Optional[str] = None


_MOST_ENV_STEPS = 10 ** 15


def default_settings(kind: str) -> settings_lib.Settings:
  """Table 4, with what the kind of environment changes."""
  return settings_lib.Settings(
      learning_rate=_LEARNING_RATE.get(kind, _SMALL_LEARNING_RATE),
      max_abs_reward=_MAX_ABS_REWARD.get(kind, 0.))


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise JobError(message)


_POSITIVE = fields.Number(open_low=True)
_SETTINGS = {
    'learning_rate': _POSITIVE, 'reward_scale': _POSITIVE,
    'kl_cost': fields.Number(), 'max_abs_reward': fields.Number(),
    'value_cost': fields.Number(), 'entropy_cost': fields.Number(),
    'discount': fields.Number(high=1), 'td_lambda': fields.Number(high=1),
    'trajectory_steps': fields.Whole(), 'use_baseline': fields.Flag(),
    'optimiser': fields.Choice(('adam', 'sgd')),
}


def check_settings(settings: settings_lib.Settings) -> None:
  """Raises JobError where a setting is not allowed."""
  for name, bounds in _SETTINGS.items():
    try:
      bounds.check(name, getattr(settings, name))
    except fields.FieldError as error:
      raise JobError(str(error)) from None


def apply_overrides(settings: settings_lib.Settings,
                    overrides: Sequence[str]) -> settings_lib.Settings:
  """`settings` with texts as `learning_rate=0.001` applied.

  Raises:
    JobError: there is no such setting, or the value is not allowed.
  """
  kinds = {f.name: f.type for f in dataclasses.fields(settings_lib.Settings)}
  changes = {}
  for text in overrides:
    name, found, value = text.partition('=')
    _require(bool(found) and name in kinds,
             f'{text!r} sets nothing; allowed: NAME=VALUE with NAME one of '
             f'{", ".join(kinds)}')
    try:
      changes[name] = _convert(kinds[name], value)
    except ValueError:
      kind = getattr(kinds[name], '__name__', str(kinds[name]))
      raise JobError(f'{name} is {value!r}; allowed: a value of type '
                     f'{kind}') from None
  settings = dataclasses.replace(settings, **changes)
  check_settings(settings)
  return settings


def _convert(kind: type, text: str) -> Any:
  if kind is bool:
    if text.lower() not in ('true', 'false', '1', '0'):
      raise ValueError(text)
    return text.lower() in ('true', '1')
  return fields.parse_whole(text) if kind is int else kind(text)


def _load_rule(rule: str, eta: Optional[str], lstm_size: int
               ) -> tuple[Optional[config_lib.RuleConfig], Optional[str]]:
  """The shape of the rule's eta, and the sum of its file."""
  if not rule_registry.RULES[rule_registry.kind_of(rule)].learned:
    _require(eta is None, f'{rule} has no eta; allowed: none')
    return None, None
  if eta is None:
    _require(rule == rule_registry.UNTRAINED,
             f'the rule {rule} needs an eta; allowed: a published name, or a '
             'file as runs/demo_seed0/eta.npz')
    return config_lib.RuleConfig(lstm_size=lstm_size), None
  path = published.resolve(eta)
  config = eta_file.load(path).rule
  wanted = rule_registry.kind_of(rule)
  _require(config.kind == wanted,
           f'{eta} holds a rule of kind {config.kind}; allowed for {rule}: '
           f'{wanted}')
  with open(path, 'rb') as f:
    return config, hashlib.sha256(f.read()).hexdigest()


def make_job(environment: str, rule: str, *, eta: Optional[str] = None,
             seeds: Sequence[int] = (0,), env_steps: Optional[int] = None,
             num_envs: Optional[int] = None, preset: Optional[str] = None,
             overrides: Sequence[str] = (), lstm_size: int = 256) -> Job:
  """Checks what can be checked without the environment, and fills in the rest.

  Args:
    environment: identifier.
    rule: name.
    eta: published name or path; none for a2c; for random only its shape is
      used.
    seeds: one agent each.
    env_steps: of each agent; None: that of its kind.
    num_envs: None: that of its kind.
    preset: of Atari; None: `dm_noop` there.
    overrides: see `apply_overrides`.
    lstm_size: of the eta that is drawn where none is given.

  Raises:
    JobError: it cannot be done; the message is one line.
    EtaFileError: the file is no rule.
  """
  try:
    kind, _ = registry.split(environment)
  except ValueError as error:
    raise JobError(str(error)) from None
  _require(rule in rule_registry.names(),
           f'there is no rule {rule!r}; allowed: '
           f'{", ".join(rule_registry.names())}')
  _require(preset is None or kind == 'atari',
           f'{environment} has no presets; allowed: on Atari only')
  if kind == 'atari':
    preset = preset or 'dm_noop'
  env_steps = DEFAULT_ENV_STEPS[kind] if env_steps is None else env_steps
  num_envs = NUM_ENVS[kind] if num_envs is None else num_envs
  try:
    env_steps = fields.Whole(1, _MOST_ENV_STEPS).check('env_steps', env_steps)
    num_envs = fields.Whole(1, 65535).check('num_envs', num_envs)
    seeds = tuple(fields.SEED.check('seeds', seed)
                  for seed in (seeds if np.ndim(seeds) else (seeds,)))
  except fields.FieldError as error:
    raise JobError(str(error)) from None
  _require(bool(seeds) and len(set(seeds)) == len(seeds),
           f'seeds is {seeds}; allowed: different whole numbers')
  eta = None if eta is None else published.fix(eta)
  rule_config, sha256 = _load_rule(rule, eta, lstm_size)
  settings = apply_overrides(default_settings(kind), overrides)
  return Job(environment, rule, env_steps, num_envs, settings, seeds, preset,
             eta, rule_config, sha256)


def default_directory(job: Job) -> str:
  """Where a job's files go unless told otherwise."""
  name = re.sub(r'[^\w.-]+', '_', job.environment)
  return os.path.join('runs', 'meta_test',
                      f'{name}_{job.rule}_seed{job.seeds[0]}')
