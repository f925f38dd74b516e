"""Meta-testing jobs: environment, rule, settings, seeds and length."""

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
  """A job cannot be made or run; the message is one line."""


# Defaults per kind of environment: the number of parallel environments, and the
# settings that differ from Table 4. Flags and arguments override them.
NUM_ENVS: Mapping[str, int] = {
    'atari': 30,  # Table 4
    'gymnax': 32,  # close to Table 4; a power of two fills SIMD vectors
    'bsuite': 16,  # stepped one after another in Python
    'gymnasium': 16,
    'module': 16,
}
DEFAULT_ENV_STEPS: Mapping[str, int] = {
    'atari': 2_500_000,  # 10 million frames
    'gymnax': 500_000, 'bsuite': 100_000, 'gymnasium': 100_000,
    'module': 100_000,
}
# Rewards are clipped on Atari only. Elsewhere they are already of order 1, and
# clipping would make large rewards equal to small ones.
_MAX_ABS_REWARD = {'atari': 1.}
# Table 4's learning rate is for its network of 1.7 million weights. Small
# networks use a larger one, between the rates of the networks in Table 3
# (0.0005 to 0.01).
_LEARNING_RATE = {'atari': 5e-4}
_SMALL_LEARNING_RATE = 2e-3


@dataclasses.dataclass(frozen=True)
class Job:
  """A rule on an environment; its agents differ only in their seeds."""
  environment: str  # see `envs.registry`
  rule: str  # see `core.update_rules.registry.names`
  env_steps: int  # steps of each agent, over its parallel environments
  num_envs: int
  settings: settings_lib.AgentSettings
  seeds: tuple[int, ...] = (0,)
  preset: Optional[str] = None  # Atari preset; None elsewhere
  eta: Optional[str] = None  # a published name, or an absolute path
  # Sizes of the rule in `eta`, or of the eta drawn for the rule `random`.
  rule_config: Optional[config_lib.RuleConfig] = None
  eta_sha256: Optional[str] = None


_MAX_ENV_STEPS = 10 ** 15


def default_settings(kind: str) -> settings_lib.AgentSettings:
  """Returns the settings of Table 4, adapted to the kind of environment."""
  return settings_lib.AgentSettings(
      learning_rate=_LEARNING_RATE.get(kind, _SMALL_LEARNING_RATE),
      max_abs_reward=_MAX_ABS_REWARD.get(kind, 0.))


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise JobError(message)


_POSITIVE = fields.Real(open_low=True)
_SETTINGS = {
    'learning_rate': _POSITIVE, 'reward_scale': _POSITIVE,
    'kl_cost': fields.Real(), 'max_abs_reward': fields.Real(),
    'value_cost': fields.Real(), 'entropy_cost': fields.Real(),
    'gamma': fields.Real(high=1), 'td_lambda': fields.Real(high=1),
    'trajectory_steps': fields.Integer(), 'use_baseline': fields.Flag(),
    'clip_range': _POSITIVE, 'passes': fields.Integer(),
    'minibatches': fields.Integer(),
    'optimiser': fields.Choice(('adam', 'sgd')),
}


def check_settings(settings: settings_lib.AgentSettings) -> None:
  """Raises JobError if a setting is not allowed."""
  for name, bounds in _SETTINGS.items():
    try:
      bounds.check(name, getattr(settings, name))
    except fields.FieldError as error:
      raise JobError(str(error)) from None


def apply_overrides(settings: settings_lib.AgentSettings,
                    overrides: Sequence[str]) -> settings_lib.AgentSettings:
  """Returns `settings`, changed by texts such as `learning_rate=0.001`.

  Raises:
    JobError: there is no such setting, or the value is not allowed.
  """
  kinds = {f.name: f.type
           for f in dataclasses.fields(settings_lib.AgentSettings)}
  changes = {}
  for text in overrides:
    name, found, value = text.partition('=')
    _require(bool(found) and name in kinds,
             f'{text!r} is no setting; allowed: NAME=VALUE with NAME one of '
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
  return fields.parse_integer(text) if kind is int else kind(text)


def _load_rule(rule: str, eta: Optional[str], lstm_size: int
               ) -> tuple[Optional[config_lib.RuleConfig], Optional[str]]:
  """Returns the sizes of the rule's eta, and the checksum of its file."""
  untrained = rule == rule_registry.UNTRAINED
  if not untrained and not rule_registry.RULES[rule].learned:
    _require(eta is None, f'the rule {rule} has no eta; give none')
    return None, None
  if eta is None:
    _require(untrained,
             f'the rule {rule} needs an eta; allowed: a published name, or a '
             'file such as runs/demo_seed0/eta.npz')
    return config_lib.RuleConfig(lstm_size=lstm_size), None
  path = published.resolve(eta)
  config = eta_file.load(path).rule
  _require(untrained or config.kind == rule,
           f'{eta} holds a rule of kind {config.kind}; allowed for {rule}: '
           f'{rule}')
  with open(path, 'rb') as f:
    return config, hashlib.sha256(f.read()).hexdigest()


def _check_minibatches(rule: str, config: Optional[config_lib.RuleConfig],
                       settings: settings_lib.AgentSettings, num_envs: int
                       ) -> None:
  """Raises JobError if some of an agent's minibatches would be empty."""
  if settings.minibatches > num_envs:
    made = rule_registry.make(config.kind if config else rule, config)
    _require(not made.several_passes,
             f'minibatches is {settings.minibatches}; allowed: up to the '
             f'number of parallel environments, {num_envs}')


def make_job(environment: str, rule: str, *, eta: Optional[str] = None,
             seeds: Sequence[int] = (0,), env_steps: Optional[int] = None,
             num_envs: Optional[int] = None, preset: Optional[str] = None,
             overrides: Sequence[str] = (), lstm_size: int = 256) -> Job:
  """Builds a job, with defaults filled in; does not load the environment.

  Args:
    environment: identifier of the environment; see `envs.registry`.
    rule: name of the rule; see `core.update_rules.registry.names`.
    eta: published name or path of eta. None for a2c and ppo. For `random` only
      its sizes are used: its weights are drawn for each seed.
    seeds: seeds of the agents.
    env_steps: steps of each agent; None: the default of the kind.
    num_envs: parallel environments; None: the default of the kind.
    preset: Atari preset; None: `dm_noop`.
    overrides: changes of settings; see `apply_overrides`.
    lstm_size: LSTM size of an eta that is drawn, if `eta` is None.

  Raises:
    JobError: the job is not possible; the message is one line.
    EtaFileError: the file holds no rule.
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
    env_steps = fields.Integer(1, _MAX_ENV_STEPS).check('env_steps', env_steps)
    num_envs = fields.Integer(1, 65535).check('num_envs', num_envs)
    seeds = tuple(fields.SEED.check('seeds', seed)
                  for seed in (seeds if np.ndim(seeds) else (seeds,)))
  except fields.FieldError as error:
    raise JobError(str(error)) from None
  _require(bool(seeds) and len(set(seeds)) == len(seeds),
           f'seeds is {seeds}; allowed: different whole numbers')
  eta = None if eta is None else published.fix(eta)
  rule_config, sha256 = _load_rule(rule, eta, lstm_size)
  settings = apply_overrides(default_settings(kind), overrides)
  _check_minibatches(rule, rule_config, settings, num_envs)
  return Job(environment, rule, env_steps, num_envs, settings, seeds, preset,
             eta, rule_config, sha256)


def default_directory(job: Job) -> str:
  """Returns the default directory of a job's files."""
  name = re.sub(r'[^\w.-]+', '_', job.environment)
  return os.path.join('runs', 'meta_test',
                      f'{name}_{job.rule}_seed{job.seeds[0]}')
