"""The `mini` benchmark: a table of rules on small JAX environments.

The rules are that of a given eta, called `lpg` whatever its kind, A2C, and a
rule with an untrained eta of the same kind and sizes. PPO is added if asked
for. All are treated alike: each one's learning rate is tuned over the same
values, with the same steps and seeds. Then it is evaluated on other seeds.
"""

import dataclasses
import json
import os
import time
from typing import Any, Mapping, Optional, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import fields
from lpg_distributed import files
from lpg_distributed.core.update_rules import registry as rule_registry
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.meta_testing import compiled_loop
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from lpg_distributed.meta_testing import summary
from lpg_distributed.store import eta_file
from lpg_distributed.store import published

RULES = ('lpg', 'a2c', 'random')  # by default
ALL_RULES = (*RULES, 'ppo')
# Steps of each agent per environment, few enough that the whole benchmark takes
# minutes on two cores. Freeway's episodes have 2500 steps.
ENV_STEPS: Mapping[str, int] = {
    'gymnax/Freeway-MinAtar': 160_000,
    'gymnax/SpaceInvaders-MinAtar': 100_000,
    'gymnax/Asterix-MinAtar': 100_000,
    'gymnax/Breakout-MinAtar': 100_000,
    'gymnax/CartPole-v1': 200_000,
    'gymnax/Catch-bsuite': 100_000,
    'gymnax/DeepSea-bsuite': 100_000,
    'gymnax/UmbrellaChain-bsuite': 100_000,
}
LEARNING_RATES = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
SEEDS = (0, 1, 2)
_FIRST_TUNING_SEED = 1000
_NUM_TUNING_SEEDS = 3
# Windows of a tuning run. Returns of its second half are compared: with few
# seeds the last window alone is too noisy.
_NUM_WINDOWS = 20
TUNING_FILE, CONFIG_FILE = 'tuning.json', 'config.json'


@dataclasses.dataclass(frozen=True)
class MiniConfig:
  """Configuration of a table; each table needs a directory of its own."""
  eta_file: str
  seeds: tuple[int, ...] = SEEDS
  environments: tuple[str, ...] = tuple(ENV_STEPS)
  scale: float = 1.  # factor on all ENV_STEPS
  rules: tuple[str, ...] = RULES

  def env_steps(self, environment: str) -> int:
    """Returns the steps of each agent on an environment."""
    return max(1, round(ENV_STEPS[environment] * self.scale))


class Item:
  """One rule on one environment, with a directory of its own."""

  def __init__(self, config: MiniConfig, environment: str, rule: str,
               root: str):
    self.config, self.environment, self.rule = config, environment, rule
    name = f'{environment.partition("/")[2]}_{rule}'
    self.directory = os.path.join(root, name)

  def job(self, learning_rate: float, seeds: Sequence[int]) -> jobs.Job:
    """Returns the job for a learning rate and seeds."""
    rule = self.rule
    if rule == 'lpg':
      rule = eta_file.load(published.resolve(self.config.eta_file)).rule.kind
    return jobs.make_job(
        self.environment, rule, seeds=seeds,
        eta=(self.config.eta_file if self.rule in ('lpg', 'random')
             else None),
        env_steps=self.config.env_steps(self.environment),
        overrides=[f'learning_rate={learning_rate}'])

  @property
  def tuning_file(self) -> str:
    """Path of the results of `_tune`."""
    return os.path.join(self.directory, TUNING_FILE)

  def tuning(self) -> Optional[dict[str, Any]]:
    """Returns the results of `_tune`; None if it did not run yet."""
    try:
      found = files.read_object(self.tuning_file)
      fields.Real(open_low=True).check('best', found['best'])
      fields.Flag().check('at_edge', found['at_edge'])
      return found
    except FileNotFoundError:
      return None
    except (OSError, ValueError, KeyError) as error:
      raise jobs.JobError(f'{self.tuning_file} is damaged: {error}; remove it '
                          'to begin anew') from None

  def result(self) -> Optional[results.Result]:
    """Returns the result; None if it does not cover all steps yet."""
    if not os.path.exists(os.path.join(self.directory, results.FILE)):
      return None
    result = results.read(self.directory)
    agents = summary.by_seed(result).values()
    done = all(rows and rows[-1]['env_steps'] >= result.job.env_steps
               for rows in agents)
    return result if done else None


def items(config: MiniConfig, root: str) -> list[Item]:
  """Returns the items of a table, the longest first."""
  return [Item(config, environment, rule, root)
          for environment in config.environments for rule in config.rules]


def check(config: MiniConfig, root: str) -> None:
  """Creates the table's directory, or checks that it belongs to this table.

  Raises:
    JobError: it belongs to another table, or the configuration is not valid.
    EtaFileError: `eta_file` holds no rule.
  """
  unknown = [e for e in config.environments if e not in ENV_STEPS]
  if unknown or not config.environments:
    raise jobs.JobError(f'environments are {", ".join(config.environments)}; '
                        f'allowed: some of {", ".join(ENV_STEPS)}')
  unknown = [rule for rule in config.rules if rule not in ALL_RULES]
  if unknown or not config.rules or len(set(config.rules)) < len(config.rules):
    raise jobs.JobError(f'rules are {", ".join(config.rules)}; allowed: '
                        f'different ones of {", ".join(ALL_RULES)}')
  if len(config.seeds) < 3:
    raise jobs.JobError(f'seeds are {config.seeds}; allowed: 3 or more')
  for item in items(config, root)[:len(config.rules)]:
    item.job(LEARNING_RATES[0], config.seeds)
  wanted = json.loads(json.dumps(dataclasses.asdict(config)))
  for name in ('environments', 'rules'):
    wanted.pop(name)  # Independent items; more can be added later.
  # Compares eta by its content and not by its path.
  eta = eta_file.load(published.resolve(wanted.pop('eta_file')))
  wanted['eta_sum'] = float(np.sum(np.abs(eta.eta, dtype=np.float64)))
  wanted['learning_rates'] = list(LEARNING_RATES)
  path = os.path.join(root, CONFIG_FILE)
  if os.path.exists(path):
    try:
      found = files.read_json(path)
    except (OSError, ValueError) as error:
      raise jobs.JobError(f'{path} is damaged: {error}') from None
    if found != wanted:
      raise jobs.JobError(f'{root} has a table with other settings; choose '
                          'another directory')
    return
  try:
    os.makedirs(root, exist_ok=True)
  except OSError as error:
    raise jobs.JobError(f'{root} cannot be written: {error.strerror}'
                        ) from None
  files.write_whole(path, json.dumps(wanted, indent=1).encode())


def _tune(item: Item) -> dict[str, Any]:
  """Trains agents with all learning rates at once; returns the results.

  Returns:
    `learning_rates`, `seeds`, `returns` [rates][seeds], `best`, the rate with
    the best mean return, and `at_edge`, whether it is the smallest or largest.
  """
  seeds = [_FIRST_TUNING_SEED + i for i in range(_NUM_TUNING_SEEDS)]
  job = item.job(LEARNING_RATES[0], seeds)
  environment = loading.load_environment(job).jax
  loop = compiled_loop.make_loop(
      environment, loading.make_network(environment.observation_spec()),
      job.settings, loading.make_rule(job), job.num_envs,
      job.settings.lifetime(job.num_envs, job.env_steps))
  grid = [(rate, seed) for rate in LEARNING_RATES for seed in seeds]
  num = len(grid)
  hyper = jax.tree_util.tree_map(
      lambda x: jnp.full(num, x), job.settings.hyper())._replace(
          learning_rate=jnp.array([rate for rate, _ in grid], jnp.float32))
  keys = jnp.stack([jax.random.PRNGKey(seed) for _, seed in grid])
  updates = -(-job.env_steps
              // (job.settings.trajectory_steps * job.num_envs))
  size = -(-updates // _NUM_WINDOWS)
  own_eta = item.rule == rule_registry.UNTRAINED
  etas = [loading.load_eta(job, seed) for _, seed in grid]
  eta = (jax.tree_util.tree_map(lambda *xs: jnp.stack(xs), *etas) if own_eta
         else etas[0])
  advance = jax.jit(jax.vmap(
      lambda eta, hyper, state: loop.advance(eta, hyper, state, size),
      in_axes=(0 if own_eta else None, 0, 0)), donate_argnums=2)
  state = jax.jit(jax.vmap(loop.init))(keys)
  sums, counts = [], []
  for _ in range(_NUM_WINDOWS):
    state, window = advance(eta, hyper, state)
    sums.append(np.asarray(window.return_sum))
    counts.append(np.asarray(window.episodes))
  returns = _late_returns(np.array(sums), np.array(counts)).reshape(
      len(LEARNING_RATES), len(seeds))
  means = returns.mean(axis=1)  # NaN if an agent never ended an episode.
  best = int(np.nanargmax(means)) if np.isfinite(means).any() else 0
  return {'learning_rates': list(LEARNING_RATES), 'seeds': seeds,
          'returns': returns.tolist(), 'best': LEARNING_RATES[best],
          'at_edge': best in (0, len(LEARNING_RATES) - 1)}


def _late_returns(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Mean return of the episodes in the second half of the windows, [agents].

  If no episode ended there, that of the last window with an ended episode; NaN
  if there is none.

  Args:
    sums: [windows, agents], sums of returns.
    counts: [windows, agents], numbers of episodes.
  """
  half = len(sums) // 2
  result = np.full(sums.shape[1], np.nan)
  for i in range(sums.shape[1]):
    ended = np.nonzero(counts[:, i])[0]
    if len(ended):
      late = slice(min(half, ended[-1]), None)
      result[i] = sums[late, i].sum() / counts[late, i].sum()
  return result


def run_item(item: Item) -> None:
  """Tunes and trains an item; skips what is already done."""
  os.makedirs(item.directory, exist_ok=True)
  if item.tuning() is None:
    begin = time.process_time()
    found = _tune(item)
    found['process_seconds'] = time.process_time() - begin
    files.write_whole(item.tuning_file, json.dumps(found, indent=1).encode())
  if item.result() is None:
    session.run(item.job(item.tuning()['best'], item.config.seeds),
                item.directory)


def table(config: MiniConfig, root: str) -> dict[str, dict[str, Any]]:
  """Returns the scores of finished items, by environment and rule."""
  rows: dict[str, dict[str, Any]] = {}
  for item in items(config, root):
    result, tuning = item.result(), item.tuning()
    if result is None or tuning is None:
      continue
    found = summary.final_score(result)
    rows.setdefault(item.environment, {})[item.rule] = {
        'mean': found and found.mean,
        'standard_error': found and found.standard_error,
        'returns': [summary.final_return(rows) for rows
                    in summary.by_seed(result).values()],
        'learning_rate': tuning['best'], 'at_edge': tuning['at_edge'],
        'env_steps': result.job.env_steps}
  return rows


def lines_of(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Formats the table as lines of text."""
  table_rows, marked = [], False
  rules = [rule for rule in ALL_RULES if rule in RULES or any(
      rule in found for found in rows.values())]
  for environment, found in rows.items():
    cells = []
    for rule in rules:
      cell = found.get(rule)
      if cell is None or cell['mean'] is None:
        cells.append('-')
        continue
      edge = '*' if cell['at_edge'] else ''
      marked = marked or bool(edge)
      half = intervals.half_width(cell['standard_error'],
                                  len(cell['returns']))
      cells.append(f'{cell["mean"]:.3g} ± {intervals.half_text(half)} '
                   f'({cell["learning_rate"]:g}{edge})')
    steps = next(iter(found.values()))['env_steps']
    name = environment.partition('/')[2]
    table_rows.append([f'`{name}`', f'{steps:,}', *cells])
  lines = markdown.table(['environment', 'steps', *rules], table_rows)
  lines.append('')
  lines.append('Return at the end ± half of the 95 % interval over seeds '
               '(learning rate).')
  if marked:
    lines.append('* the largest or smallest of the rates that were tried.')
  return lines
