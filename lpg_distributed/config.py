"""All numbers of a run, with the defaults of Oh et al. (2020), Tables 2 and 3.

Presets change sizes and flags change single fields; neither defines a field. A
configuration is checked when it is built, so a bad value ends the launch and
not the run.
"""

import dataclasses
import math
from typing import Iterable, Mapping

from lpg_distributed import allocation
from lpg_distributed import fields
from lpg_distributed.core.update_rules import registry
from lpg_distributed.envs import atari
from lpg_distributed.envs import names
from lpg_distributed.envs import suite


class ConfigError(fields.FieldError):
  """A configuration that cannot be run; the message is one line."""


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ConfigError(message)


MATMUL_PRECISIONS = ('highest', 'high', 'default')  # docs/performance.md
REWARD_INPUTS = ('raw', 'signed_log', 'normalised')


@dataclasses.dataclass(frozen=True)
class RuleConfig:
  """Shape of the update rule (B.1)."""
  num_predictions: int = fields.integer(30, 2)
  embedding_size: int = fields.integer(16)
  lstm_size: int = fields.integer(256)
  # A learned rule of `core.update_rules.registry`.
  kind: str = 'lpg'
  # Whether it sees pi(a|s), as the paper's does.
  sees_policy: bool = fields.flag(True)
  # Not in the paper, off by default; see `core/agent_life.py`. Whether it sees
  # the age of the agent and the length of its lifetime; and how it sees r_t.
  sees_age: bool = fields.flag(False)
  reward_input: str = fields.choice('raw', REWARD_INPUTS)

  def __post_init__(self):
    fields.check(self, 'rule.', ConfigError)
    _require(self.kind in registry.learned(),
             f'rule.kind is {self.kind!r}; allowed: '
             f'{", ".join(registry.learned())}')


# Table 3's learning rates, by optimiser.
_RATES = {'sgd': (20., 40., 80.), 'adam': (0.0005, 0.001, 0.002, 0.005)}


@dataclasses.dataclass(frozen=True)
class AgentConfig:
  """One row of Table 3."""
  # Filters of the 3x3 convolutions.
  conv: tuple[int, ...] = fields.tuple_of((), fields.Integer(), empty=True)
  # Units; both empty: a table.
  dense: tuple[int, ...] = fields.tuple_of((), fields.Integer(), empty=True)
  optimiser: str = fields.choice('sgd', ('sgd', 'adam'))
  # Empty: Table 3's for the optimiser.
  learning_rates: tuple[float, ...] = fields.tuple_of(
      (), fields.Real(open_low=True), empty=True)
  kl_costs: tuple[float, ...] = fields.tuple_of(
      (0.1, 0.5, 1.), fields.Real())
  lifetime_env_steps: int = fields.integer(3_000_000)

  def __post_init__(self):
    fields.check(self, '', ConfigError)
    if not self.learning_rates:
      object.__setattr__(self, 'learning_rates', _RATES[self.optimiser])

  @property
  def is_table(self) -> bool:
    return not self.conv and not self.dense

  @property
  def arms(self) -> tuple[tuple[float, float], ...]:
    """The bandit's grid for this kind: (learning rate, KL cost) pairs."""
    return tuple((rate, cost) for rate in self.learning_rates
                 for cost in self.kl_costs)


_GRID_TABLE = AgentConfig()
_CHAIN_TABLE = AgentConfig(lifetime_env_steps=1_000_000)


def _network(conv: tuple[int, ...], dense: int) -> AgentConfig:
  return AgentConfig(conv, (dense,), 'adam', lifetime_env_steps=30_000_000)


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

# Agents of kinds that are not in the paper. A configuration has the rows of
# those kinds only that are among its environments.
_SMALL_NETWORK = AgentConfig((), (32,), 'adam', (0.005, 0.01, 0.02), (0.1,),
                             lifetime_env_steps=3_000_000)
AGENTS_BEYOND_THE_PAPER: Mapping[str, AgentConfig] = {
    'survival_chain': _CHAIN_TABLE,
    'balance': _SMALL_NETWORK,
    'random_mdp': _CHAIN_TABLE,
    'random_mdp_features': _SMALL_NETWORK,
    'random_grids': _GRID_TABLE,
    'random_grids_planes': _SMALL_NETWORK,
}
ALL_AGENTS: Mapping[str, AgentConfig] = {**AGENTS, **AGENTS_BEYOND_THE_PAPER}


def rows_beyond_the_paper(environments: Iterable[str]
                          ) -> dict[str, AgentConfig]:
  """Returns the default rows of those environments that have one."""
  return {name: AGENTS_BEYOND_THE_PAPER[name] for name in environments
          if name in AGENTS_BEYOND_THE_PAPER}


@dataclasses.dataclass(frozen=True)
class MetaConfig:
  """Meta-training, Table 2 and B.1."""
  learning_rate: float = fields.positive(1e-4, high=1)
  # Not in the paper: number of meta-steps in which the learning rate falls to
  # `final_learning_rate`, along a cosine; 0: it is constant.
  learning_rate_decay_steps: int = fields.integer(0, low=0)
  final_learning_rate: float = fields.number(0., high=1)
  max_gradient_norm: float = fields.number(0.)  # 0: no clipping, as the paper
  # Largest gradient norm of one lifetime; 0: no clipping. A few lifetimes can
  # have norms a thousand times those of the others.
  max_lifetime_gradient_norm: float = fields.number(0.)
  gammas: tuple[float, ...] = fields.tuple_of(
      (0.995, 0.99), fields.Real(high=1))
  policy_entropy_costs: tuple[float, ...] = fields.tuple_of(
      (0.01, 0.02), fields.Real())  # beta_0
  prediction_entropy_cost: float = fields.number(0.001)  # beta_1
  pi_hat_cost: float = fields.number(0.001)  # beta_2
  y_hat_cost: float = fields.number(0.001)  # beta_3
  trajectory_steps: int = fields.integer(20)  # T
  num_updates: int = fields.integer(5)  # K
  num_lifetimes: int = fields.integer(960)
  num_envs: int = fields.integer(64)  # B
  # Factor on the length of all lifetimes; small runs shorten them.
  lifetime_scale: float = fields.positive(1.)
  # Whether the first lifetimes start at different ages, so that they do not
  # all end together.
  staggered_ages: bool = fields.flag(True)
  # Policy entropy in nats below which a lifetime ends at once (B.1: "0").
  min_policy_entropy: float = fields.number(1e-3)
  # Standard deviation of a table's initial y logits (paper silent).
  y_table_stddev: float = fields.number(0.1)
  # Not in the paper, off by default; see `core/reward_transform.py`. Fraction
  # of lifetimes whose rewards are shifted, by a constant from this range; and
  # the largest factor, or its inverse, of any lifetime's rewards.
  reward_shift_share: float = fields.number(0., high=1)
  reward_shift_range: tuple[float, ...] = fields.tuple_of(
      (-0.2, 0.6), fields.Real(low=-1e6, high=1e6))
  reward_scale_limit: float = fields.number(1., low=1, high=1e6)

  def __post_init__(self):
    fields.check(self, 'meta.', ConfigError)
    if (len(self.reward_shift_range) != 2
        or self.reward_shift_range[0] > self.reward_shift_range[1]):
      raise ConfigError(
          f'meta.reward_shift_range is {self.reward_shift_range}; allowed: '
          'two numbers, the lower one first')
    if self.final_learning_rate and not self.learning_rate_decay_steps:
      raise ConfigError(
          f'meta.final_learning_rate is {self.final_learning_rate}, and '
          'meta.learning_rate_decay_steps is 0; allowed: both, or neither')

  @property
  def window_env_steps(self) -> int:
    """Number of environment steps of one lifetime in a meta-step."""
    return self.num_updates * self.trajectory_steps * self.num_envs


@dataclasses.dataclass(frozen=True)
class OuterConfig:
  """The A2C that estimates Eq. (4)'s policy gradient (paper silent)."""
  td_lambda: float = fields.number(0.95, high=1)
  # For tables: fraction of the way to the mean target of a state's visits.
  table_learning_rate: float = fields.positive(0.3, high=1)
  network_learning_rate: float = fields.positive(1e-3, high=1)  # Adam
  # Decay of the running second moment that scales advantages; 0: off.
  advantage_ema_decay: float = fields.number(0., high=0.999999)

  def __post_init__(self):
    fields.check(self, 'outer.', ConfigError)


@dataclasses.dataclass(frozen=True)
class BanditConfig:
  """Hyperparameter balancing, Eq. (6) and Table 2."""
  temperature: float = fields.positive(0.1)  # tau
  exploration_bonus: float = fields.number(0.2)  # rho
  window: int = fields.integer(10)  # lifetimes averaged into R

  def __post_init__(self):
    fields.check(self, 'bandit.', ConfigError)


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig:
  """The Atari evaluator that follows a run (Table 4, B.2)."""
  enabled: bool = fields.flag(True)
  games: tuple[str, ...] = fields.tuple_of(
      ('breakout', 'boxing'), fields.Text())  # those of B.2, one after another
  preset: str = fields.choice('dm_noop', tuple(atari.PRESETS))
  frames: int = fields.integer(100_000)  # per evaluated eta and game
  num_envs: int = fields.integer(30)
  trajectory_steps: int = fields.integer(20)
  learning_rate: float = fields.positive(5e-4, high=1)
  kl_cost: float = fields.number(0.5)
  gamma: float = fields.number(0.995, high=1)
  use_baseline: bool = fields.flag(True)  # Eq. (7)
  # Share of the machine's processor time that the evaluator may use.
  share: float = fields.positive(0.25, high=1)
  # Fewest meta-steps between two evaluated etas; 0: any newer eta will do.
  period_meta_steps: int = fields.integer(0, 0)
  pause_s: float = fields.number(0.)  # seconds between two games

  def __post_init__(self):
    fields.check(self, 'evaluator.', ConfigError)
    for game in self.games:
      try:
        atari.check_game(game)
      except ValueError as error:
        raise ConfigError(f'evaluator.games: {error}') from None
    _require(len(set(self.games)) == len(self.games),
             'evaluator.games names one twice')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Length of the run, its workers, and how often it is saved."""
  seed: int = fields.bounded(0, fields.SEED)
  # A file or the name of a published rule; empty: drawn from `seed`.
  initial_rule: str = fields.text('', 'a file or a published name')
  meta_steps: int = fields.integer(1_000_000)
  num_workers: int = fields.integer(2, 0)
  # Speed of the learner's own devices, in workers; shards are assigned in
  # proportion. 0: the learner advances no shards.
  learner_speed: float = fields.number(0.)
  # Lifetimes advanced by one compiled call: the unit of work and of memory.
  lifetimes_per_shard: int = fields.integer(16)
  mode: str = fields.choice('sync', ('sync', 'async'))
  # Async mode only; 0: as many as there are shards.
  gradients_per_update: int = fields.integer(0, 0)
  max_staleness: int = fields.integer(4, 0)  # async only, meta-steps
  checkpoint_period_steps: int = fields.integer(100)
  checkpoint_period_s: float = fields.positive(600.)
  checkpoints_kept: int = fields.integer(3)
  eta_snapshot_period_steps: int = fields.integer(100)
  # A meta-step that takes longer is an error.
  step_timeout_s: float = fields.positive(3600.)
  # Number of meta-steps in a row, with numbers not finite, that end the run.
  not_finite_limit: int = fields.integer(20)
  # Precision of float32 matrix products on accelerators.
  matmul_precision: str = fields.choice('highest', MATMUL_PRECISIONS)

  def __post_init__(self):
    fields.check(self, 'run.', ConfigError)
    _require(self.num_workers != 0 or self.learner_speed > 0,
             'run.num_workers is 0; allowed: a whole number from 1, or from 0 '
             'where run.learner_speed is over 0')


@dataclasses.dataclass(frozen=True)
class ShardSpec:
  """A fixed set of lifetimes of one kind, advanced together."""
  shard_id: int
  environment: str
  num_lifetimes: int
  first_slot: int  # index of the shard's first lifetime among its kind's
  kind_lifetimes: int  # number of lifetimes of the kind, over all shards
  weight: float = 1.  # factor on its gradient; see `Config.lifetimes_by`


@dataclasses.dataclass(frozen=True)
class Config:
  """Configuration of a run."""
  environments: tuple[str, ...] = fields.tuple_of(
      suite.ENVIRONMENTS, fields.Text())
  # Share of the lifetimes for each environment; empty: equal shares.
  shares: tuple[float, ...] = fields.tuple_of(
      (), fields.Real(open_low=True), empty=True)
  # `share`: the number of an environment's lifetimes is proportional to its
  # share. `cost`: environments with expensive steps have fewer lifetimes, and
  # the others more. Weights keep the expected meta-gradient.
  lifetimes_by: str = fields.choice('share', ('share', 'cost'))
  agents: Mapping[str, AgentConfig] = dataclasses.field(
      default_factory=lambda: dict(AGENTS))
  rule: RuleConfig = RuleConfig()
  meta: MetaConfig = MetaConfig()
  outer: OuterConfig = OuterConfig()
  bandit: BanditConfig = BanditConfig()
  evaluator: EvaluatorConfig = EvaluatorConfig()
  run: RunConfig = RunConfig()

  def __post_init__(self):
    fields.check(self, '', ConfigError)
    rows = {**rows_beyond_the_paper(self.environments), **self.agents}
    if len(rows) > len(self.agents):
      object.__setattr__(self, 'agents', rows)
    _require(self.rule.kind == 'lpg' or not self.evaluator.enabled,
             f'rule.kind is {self.rule.kind!r}, which the Atari evaluator does '
             'not know; allowed with it: evaluator.enabled=false')
    for name in self.environments:
      try:
        names.check_trainable(name, self.agents)
      except ValueError as error:
        raise ConfigError(str(error)) from None
    _require(len(set(self.environments)) == len(self.environments),
             'environments names one twice')
    if self.shares:
      _require(len(self.shares) == len(self.environments),
               f'shares has {len(self.shares)} numbers for '
               f'{len(self.environments)} environments')
    _require(self.meta.num_lifetimes >= len(self.environments),
             f'meta.num_lifetimes is {self.meta.num_lifetimes}; allowed: at '
             f'least one per environment ({len(self.environments)})')

  def _shares(self) -> tuple[float, ...]:
    return self.shares or (1.,) * len(self.environments)

  def relative_cost(self, environment: str) -> float:
    """Estimated cost of an environment step, see `allocation`."""
    return allocation.relative_cost(self.agents[environment],
                                    self.rule.lstm_size)

  def lifetimes_per_environment(self) -> tuple[int, ...]:
    """Splits the lifetimes; each environment gets at least one."""
    total, shares = self.meta.num_lifetimes, self._shares()
    if self.lifetimes_by == 'share':
      return allocation.by_share(total, shares)
    return allocation.by_cost(
        total, shares, [self.relative_cost(name) for name in self.environments])

  def shards(self) -> tuple[ShardSpec, ...]:
    """The run's units of work; they do not depend on the number of workers."""
    shards = []
    counts = self.lifetimes_per_environment()
    by_cost = self.lifetimes_by == 'cost'
    weights = (allocation.weights(counts, self._shares()) if by_cost
               else (1.,) * len(counts))
    for name, total, weight in zip(self.environments, counts, weights):
      # By cost, no shard costs more than one of tables, or one lifetime.
      cost = self.relative_cost(name) if by_cost else 1
      parts = min(total, math.ceil(total * cost / self.run.lifetimes_per_shard))
      for i in range(parts):
        size = total // parts + (i < total % parts)
        first = i * (total // parts) + min(i, total % parts)
        shards.append(
            ShardSpec(len(shards), name, size, first, total, weight))
    return tuple(shards)

  def lifetime_windows(self, environment: str) -> int:
    """Number of meta-steps in one lifetime, at least one."""
    steps = (self.agents[environment].lifetime_env_steps
             * self.meta.lifetime_scale)
    return max(1, round(steps / self.meta.window_env_steps))
