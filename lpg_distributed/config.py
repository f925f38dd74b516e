"""Every number of a run, with the paper's defaults, in one place.

Tables 2 and 3 of Oh et al. (2020). Presets change sizes, flags change single
fields, and neither defines one. All of it is checked when it is built, so that
a bad value ends the launch and not the run.
"""

import dataclasses
import math
from typing import Any, Mapping

from lpg_distributed import errors
from lpg_distributed.envs import atari
from lpg_distributed.envs import suite

# Steps, seeds and sizes are 32-bit numbers where they are computed with.
_LARGEST = 2 ** 31 - 1


class ConfigError(errors.UserError, ValueError):
  """A configuration that cannot be run; the message is one line."""


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ConfigError(message)


def _require_number(name: str, value: Any, low: float, high: float,
                    open_low: bool = False) -> None:
  is_number = (isinstance(value, (int, float)) and not isinstance(value, bool)
               and math.isfinite(value))
  _require(
      is_number and low <= value <= high and not (open_low and value == low),
      f'{name} is {value!r}; allowed: a number {">" if open_low else ">="} '
      f'{low:g}' + (f' and <= {high:g}' if math.isfinite(high) else ''))


def _require_count(name: str, value: Any, low: int = 1) -> None:
  _require(isinstance(value, int) and not isinstance(value, bool)
           and low <= value <= _LARGEST,
           f'{name} is {value!r}; allowed: a whole number from {low} to '
           f'{_LARGEST}')


def _require_tuple(name: str, values: Any, empty: bool = False) -> None:
  _require(isinstance(values, tuple), f'{name} is {values!r}; allowed: a tuple')
  _require(empty or bool(values), f'{name} needs at least one value')


def _require_numbers(name: str, values: Any, low: float, high: float,
                     open_low: bool = False) -> None:
  """A tuple of at least one number, each within the range."""
  _require_tuple(name, values)
  for value in values:
    _require_number(name, value, low, high, open_low)


MATMUL_PRECISIONS = ('highest', 'high', 'default')  # docs/performance.md
RULE_KINDS = ('lpg', 'lpg_v', 'lpg_vector')


@dataclasses.dataclass(frozen=True)
class RuleConfig:
  """Shape of the update rule (B.1)."""
  num_predictions: int = 30
  embedding_size: int = 16
  lstm_size: int = 256
  # `lpg`; `lpg_v`: LPG-V of Section 4.1, which sees V(s) in place of y(s) and
  # has no y_hat, so that it uses no `num_predictions`; `lpg_vector`: the
  # ablation of Section 4.4 whose y is a vector, without softmax.
  kind: str = 'lpg'
  # Whether it sees pi(a|s), as the paper's does.
  sees_policy: bool = True

  def __post_init__(self):
    _require(isinstance(self.sees_policy, bool),
             f'rule.sees_policy is {self.sees_policy!r}; allowed: True, False')
    _require(self.kind in RULE_KINDS,
             f'rule.kind is {self.kind!r}; allowed: {", ".join(RULE_KINDS)}')
    _require_count('rule.num_predictions', self.num_predictions, 2)
    _require_count('rule.embedding_size', self.embedding_size)
    _require_count('rule.lstm_size', self.lstm_size)


@dataclasses.dataclass(frozen=True)
class AgentConfig:
  """One row of Table 3."""
  conv: tuple[int, ...] = ()  # filters of the 3x3 convolutions
  dense: tuple[int, ...] = ()  # units; both empty: a table
  optimiser: str = 'sgd'
  learning_rates: tuple[float, ...] = (20., 40., 80.)
  kl_costs: tuple[float, ...] = (0.1, 0.5, 1.)
  lifetime_env_steps: int = 3_000_000

  def __post_init__(self):
    _require(self.optimiser in ('sgd', 'adam'),
             f'optimiser is {self.optimiser!r}; allowed: sgd, adam')
    _require_numbers('learning_rates', self.learning_rates, 0, math.inf,
                     open_low=True)
    _require_numbers('kl_costs', self.kl_costs, 0, math.inf)
    for name in ('conv', 'dense'):
      _require_tuple(name, getattr(self, name), empty=True)
      for width in getattr(self, name):
        _require_count(name, width)
    _require_count('lifetime_env_steps', self.lifetime_env_steps)

  @property
  def is_table(self) -> bool:
    return not self.conv and not self.dense

  @property
  def arms(self) -> tuple[tuple[float, float], ...]:
    """The bandit's grid for this kind: (alpha_lr, alpha_y) pairs."""
    return tuple((rate, cost) for rate in self.learning_rates
                 for cost in self.kl_costs)


_ADAM_RATES = (0.0005, 0.001, 0.002, 0.005)
_GRID_TABLE = AgentConfig()
_CHAIN_TABLE = AgentConfig(lifetime_env_steps=1_000_000)


def _network(conv: tuple[int, ...], dense: int) -> AgentConfig:
  return AgentConfig(conv, (dense,), 'adam', _ADAM_RATES,
                     lifetime_env_steps=30_000_000)


# Table 3, row by row.
AGENTS: Mapping[str, AgentConfig] = {
    'tabular_dense': _GRID_TABLE,
    'tabular_sparse': _GRID_TABLE,
    'tabular_long_horizon': _GRID_TABLE,
    'tabular_longer_horizon': _GRID_TABLE,
    'tabular_long_dense': _GRID_TABLE,
    'random_dense': _network((16,), 32),
    'random_long_horizon': _network((16,), 32),
    'random_small': _network((), 32),
    'random_small_sparse': _network((), 32),
    'random_very_dense': _network((32, 16, 16), 256),
    'chain_short': _CHAIN_TABLE,
    'chain_short_noisy': _CHAIN_TABLE,
    'chain_long': _CHAIN_TABLE,
    'chain_long_noisy': _CHAIN_TABLE,
    'chain_state_distraction': AgentConfig(
        (), (16,), 'adam', (0.002, 0.005, 0.01),
        lifetime_env_steps=2_000_000),
}


@dataclasses.dataclass(frozen=True)
class MetaConfig:
  """Meta-training, Table 2 and B.1."""
  learning_rate: float = 1e-4
  max_gradient_norm: float = 0.  # 0: no clipping, as the paper
  # The same for each lifetime's; a few are easily a thousand times the others.
  max_lifetime_gradient_norm: float = 0.
  discounts: tuple[float, ...] = (0.995, 0.99)
  policy_entropy_costs: tuple[float, ...] = (0.01, 0.02)  # beta_0
  prediction_entropy_cost: float = 0.001  # beta_1
  pi_hat_cost: float = 0.001  # beta_2
  y_hat_cost: float = 0.001  # beta_3
  trajectory_steps: int = 20  # T
  num_updates: int = 5  # K
  num_lifetimes: int = 960
  num_envs: int = 64  # B
  lifetime_scale: float = 1.  # of every kind; small runs shorten them
  staggered_ages: bool = True  # of first lives, so that not all end together
  # Policy entropy in nats below which a lifetime ends at once (B.1 says "0").
  min_policy_entropy: float = 1e-3
  y_table_stddev: float = 0.1  # of a table's first y logits (paper silent)

  def __post_init__(self):
    _require_number('meta.learning_rate', self.learning_rate, 0, 1,
                    open_low=True)
    _require_numbers('meta.discounts', self.discounts, 0, 1)
    _require_numbers('meta.policy_entropy_costs', self.policy_entropy_costs,
                     0, math.inf)
    for name in ('max_gradient_norm', 'max_lifetime_gradient_norm',
                 'prediction_entropy_cost', 'pi_hat_cost', 'y_hat_cost',
                 'y_table_stddev', 'min_policy_entropy'):
      _require_number(f'meta.{name}', getattr(self, name), 0, math.inf)
    for name in ('trajectory_steps', 'num_updates', 'num_lifetimes',
                 'num_envs'):
      _require_count(f'meta.{name}', getattr(self, name))
    _require_number('meta.lifetime_scale', self.lifetime_scale, 0, math.inf,
                    open_low=True)
    _require(isinstance(self.staggered_ages, bool), 'meta.staggered_ages is '
             f'{self.staggered_ages!r}; allowed: True, False')

  @property
  def window_env_steps(self) -> int:
    """Environment steps one lifetime takes in a meta-step."""
    return self.num_updates * self.trajectory_steps * self.num_envs


@dataclasses.dataclass(frozen=True)
class OuterConfig:
  """The A2C that estimates Eq. (4)'s policy gradient (paper silent)."""
  td_lambda: float = 0.95
  # Fraction of the way to the mean target of a state's visits; for tables.
  table_learning_rate: float = 0.3
  network_learning_rate: float = 1e-3  # Adam
  # Decay of the running second moment that scales advantages; 0: off.
  advantage_ema_decay: float = 0.

  def __post_init__(self):
    _require_number('outer.td_lambda', self.td_lambda, 0, 1)
    _require_number('outer.table_learning_rate', self.table_learning_rate, 0,
                    1, open_low=True)
    _require_number('outer.network_learning_rate',
                    self.network_learning_rate, 0, 1, open_low=True)
    _require_number('outer.advantage_ema_decay', self.advantage_ema_decay, 0,
                    0.999999)


@dataclasses.dataclass(frozen=True)
class BanditConfig:
  """Hyperparameter balancing, Eq. (6) and Table 2."""
  temperature: float = 0.1  # tau
  exploration_bonus: float = 0.2  # rho
  window: int = 10  # lifetimes averaged into R

  def __post_init__(self):
    _require_number('bandit.temperature', self.temperature, 0, math.inf,
                    open_low=True)
    _require_number('bandit.exploration_bonus', self.exploration_bonus, 0,
                    math.inf)
    _require_count('bandit.window', self.window)


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig:
  """The Atari evaluator that follows a run (Table 4, B.2)."""
  enabled: bool = True
  games: tuple[str, ...] = ('breakout', 'boxing')  # in turn; those of B.2
  preset: str = 'dm_noop'
  frames: int = 100_000  # per evaluated eta and game
  num_envs: int = 30
  trajectory_steps: int = 20
  learning_rate: float = 5e-4
  kl_cost: float = 0.5
  discount: float = 0.995
  use_baseline: bool = True  # Eq. (7)
  share: float = 0.25  # of all processor time of the machine that it is on
  period_meta_steps: int = 0  # between evaluated etas; 0: each new one
  pause_s: float = 0.  # between two games

  def __post_init__(self):
    for name in ('enabled', 'use_baseline'):
      _require(isinstance(getattr(self, name), bool),
               f'evaluator.{name} is {getattr(self, name)!r}; allowed: True, '
               'False')
    _require_tuple('evaluator.games', self.games)
    for game in self.games:
      try:
        atari.check_game(game)
      except ValueError as error:
        raise ConfigError(f'evaluator.games: {error}') from None
    _require(len(set(self.games)) == len(self.games),
             'evaluator.games names one twice')
    _require(self.preset in atari.PRESETS,
             f'evaluator.preset is {self.preset!r}; allowed: '
             f'{", ".join(atari.PRESETS)}')
    for name in ('frames', 'num_envs', 'trajectory_steps'):
      _require_count(f'evaluator.{name}', getattr(self, name))
    _require_number('evaluator.learning_rate', self.learning_rate, 0, 1,
                    open_low=True)
    _require_number('evaluator.kl_cost', self.kl_cost, 0, math.inf)
    _require_number('evaluator.discount', self.discount, 0, 1)
    _require_number('evaluator.share', self.share, 0, 1, open_low=True)
    _require_count('evaluator.period_meta_steps', self.period_meta_steps, 0)
    _require_number('evaluator.pause_s', self.pause_s, 0, math.inf)


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """How long, how spread out, how often saved."""
  seed: int = 0
  initial_rule: str = ''  # a file or published name; empty: drawn by `seed`
  meta_steps: int = 1_000_000
  num_workers: int = 2
  # Workers that the learner's own devices count as; 0: it advances no shards.
  learner_speed: float = 0.
  # Lifetimes advanced by one compiled call: the unit of work and of memory.
  lifetimes_per_shard: int = 16
  mode: str = 'sync'
  gradients_per_update: int = 0  # async only; 0: as many as there are shards
  max_staleness: int = 4  # async only, meta-steps
  checkpoint_period_steps: int = 100
  checkpoint_period_s: float = 600.
  checkpoints_kept: int = 3
  eta_snapshot_period_steps: int = 100
  step_timeout_s: float = 3600.  # a meta-step slower than this is an error
  not_finite_limit: int = 20  # meta-steps in a row that end the run
  matmul_precision: str = 'highest'  # of float32 products on accelerators

  def __post_init__(self):
    _require_count('run.seed', self.seed, 0)
    _require(isinstance(self.initial_rule, str), 'run.initial_rule is '
             f'{self.initial_rule!r}; allowed: a file or a published name')
    _require_number('run.learner_speed', self.learner_speed, 0, math.inf)
    _require(self.num_workers != 0 or self.learner_speed > 0,
             'run.num_workers is 0; allowed: a whole number from 1, or from 0 '
             'where run.learner_speed is over 0')
    _require_count('run.num_workers', self.num_workers, 0)
    for name in ('meta_steps', 'lifetimes_per_shard',
                 'checkpoint_period_steps', 'checkpoints_kept',
                 'eta_snapshot_period_steps', 'not_finite_limit'):
      _require_count(f'run.{name}', getattr(self, name))
    _require_count('run.gradients_per_update', self.gradients_per_update, 0)
    _require_count('run.max_staleness', self.max_staleness, 0)
    _require(self.mode in ('sync', 'async'),
             f'run.mode is {self.mode!r}; allowed: sync, async')
    _require(self.matmul_precision in MATMUL_PRECISIONS,
             f'run.matmul_precision is {self.matmul_precision!r}; allowed: '
             f'{", ".join(MATMUL_PRECISIONS)}')
    _require_number('run.checkpoint_period_s', self.checkpoint_period_s, 0,
                    math.inf, open_low=True)
    _require_number('run.step_timeout_s', self.step_timeout_s, 0, math.inf,
                    open_low=True)


@dataclasses.dataclass(frozen=True)
class ShardSpec:
  """A fixed set of lifetimes of one kind, advanced together."""
  shard_id: int
  environment: str
  num_lifetimes: int
  first_slot: int  # of the kind's lifetimes, the first that is here
  kind_lifetimes: int  # all lifetimes of the kind, over its shards


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run."""
  environments: tuple[str, ...] = suite.ENVIRONMENTS
  shares: tuple[float, ...] = ()  # of the lifetimes; empty: equal shares
  agents: Mapping[str, AgentConfig] = dataclasses.field(
      default_factory=lambda: dict(AGENTS))
  rule: RuleConfig = RuleConfig()
  meta: MetaConfig = MetaConfig()
  outer: OuterConfig = OuterConfig()
  bandit: BanditConfig = BanditConfig()
  evaluator: EvaluatorConfig = EvaluatorConfig()
  run: RunConfig = RunConfig()

  def __post_init__(self):
    _require(self.rule.kind == 'lpg' or not self.evaluator.enabled,
             f'rule.kind is {self.rule.kind!r}, which the Atari evaluator does '
             'not know; allowed with it: evaluator.enabled=false')
    _require_tuple('environments', self.environments)
    for name in self.environments:
      try:
        suite.check_name(name)
      except ValueError as error:
        raise ConfigError(str(error)) from None
    _require(len(set(self.environments)) == len(self.environments),
             'environments names one twice')
    missing = [n for n in self.environments if n not in self.agents]
    _require(not missing, f'agents has no entry for {", ".join(missing)}')
    _require_tuple('shares', self.shares, empty=True)
    if self.shares:
      _require(len(self.shares) == len(self.environments),
               f'shares has {len(self.shares)} numbers for '
               f'{len(self.environments)} environments')
      _require_numbers('shares', self.shares, 0, math.inf, open_low=True)
    _require(self.meta.num_lifetimes >= len(self.environments),
             f'meta.num_lifetimes is {self.meta.num_lifetimes}; allowed: at '
             f'least one per environment ({len(self.environments)})')

  def lifetimes_per_environment(self) -> tuple[int, ...]:
    """Splits the lifetimes by share, largest remainder first, one at least."""
    shares = self.shares or (1.,) * len(self.environments)
    spare = self.meta.num_lifetimes - len(self.environments)
    exact = [spare * share / sum(shares) for share in shares]
    counts = [1 + int(x) for x in exact]
    by_remainder = sorted(range(len(exact)),
                          key=lambda i: (int(exact[i]) - exact[i], i))
    for i in by_remainder[:self.meta.num_lifetimes - sum(counts)]:
      counts[i] += 1
    return tuple(counts)

  def shards(self) -> tuple[ShardSpec, ...]:
    """The run's units of work, the same whoever owns them."""
    shards = []
    for name, total in zip(self.environments,
                           self.lifetimes_per_environment()):
      parts = math.ceil(total / self.run.lifetimes_per_shard)
      for i in range(parts):
        size = total // parts + (i < total % parts)
        first = i * (total // parts) + min(i, total % parts)
        shards.append(ShardSpec(len(shards), name, size, first, total))
    return tuple(shards)

  def lifetime_windows(self, environment: str) -> int:
    """Meta-steps in one lifetime, at least one."""
    steps = (self.agents[environment].lifetime_env_steps
             * self.meta.lifetime_scale)
    return max(1, round(steps / self.meta.window_env_steps))
