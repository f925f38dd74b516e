"""Selects an agent's hyperparameters on validation environments (B.2).

Each pair of the learning rates and KL costs in Table 4 is tried on each
environment. The pair with the best mean score is selected. Scores on Atari are
human-normalised. Scores elsewhere are scaled to 0 for the worst pair on the
environment and 1 for the best.
"""

import itertools
import os
import re
from typing import Mapping, NamedTuple, Optional, Sequence

from lpg_distributed.envs import atari
from lpg_distributed.envs import registry
from lpg_distributed.figures import markdown
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from lpg_distributed.meta_testing import summary

ENVIRONMENTS = ('atari/breakout', 'atari/boxing')  # B.2
LEARNING_RATES = (0.001, 0.0005, 0.0003)  # Table 4
KL_COSTS = (1., 0.5, 0.1)  # Table 4


class Pair(NamedTuple):
  """A pair of hyperparameters."""
  learning_rate: float  # alpha_lr
  kl_cost: float  # alpha_y


class Trial(NamedTuple):
  """One pair on one environment."""
  pair: Pair
  job: jobs.Job
  directory: str


class Selection(NamedTuple):
  """The result of the selection."""
  best: Pair
  scores: Mapping[Pair, float]  # means over environments
  returns: Mapping[Pair, Mapping[str, Optional[float]]]  # by environment


def trials(root: str, environments: Sequence[str],
           learning_rates: Sequence[float], kl_costs: Sequence[float],
           overrides: Sequence[str] = (), **arguments) -> list[Trial]:
  """Returns all trials.

  Args:
    root: directory of the trials' directories.
    environments: identifiers of the validation environments.
    learning_rates: learning rates to try.
    kl_costs: KL costs to try.
    overrides: changes of all trials' settings; see `jobs.apply_overrides`.
    **arguments: further arguments of `jobs.make_job`.

  Raises:
    JobError: a trial is not possible.
  """
  for override in overrides:
    name = override.partition('=')[0]
    if name in Pair._fields:
      raise jobs.JobError(f'{name} is what is selected; give --{name}s')
  if not environments or not learning_rates or not kl_costs:
    raise jobs.JobError('there is nothing to select from; allowed: at least '
                        'one environment, learning rate and KL cost')
  found = []
  for environment, *pair in itertools.product(
      dict.fromkeys(environments), learning_rates, kl_costs):
    pair = Pair(*pair)
    job = jobs.make_job(environment, overrides=[
        *overrides,
        *(f'{name}={value}' for name, value in pair._asdict().items())],
        **arguments)
    name = re.sub(r'[^\w.-]+', '_', environment)
    found.append(Trial(pair, job, os.path.join(
        root, f'{name}_lr{pair.learning_rate:g}_kl{pair.kl_cost:g}')))
  return found


def run_trial(trial: Trial) -> None:
  """Trains a trial's agents, or resumes their training, in one thread."""
  session.run(trial.job, trial.directory, num_threads=1)


def _score(environment: str, value: float, others: Sequence[float]) -> float:
  kind, name = registry.split(environment)
  if kind == 'atari':
    return atari.human_normalised(name, value)
  low, high = min(others), max(others)
  return (value - low) / (high - low) if high > low else 0.


def choose(found: Sequence[Trial]) -> Selection:
  """Selects the pair with the best mean score over environments.

  An environment where no episode ended in any trial is ignored. A trial without
  an ended episode gets the worst score on its environment.

  Raises:
    JobError: no episode ended in any trial.
  """
  returns: dict[Pair, dict[str, Optional[float]]] = {}
  for trial in found:
    score = summary.final_score(results.read(trial.directory))
    returns.setdefault(trial.pair, {})[trial.job.environment] = (
        score and score.mean)
  scores = {}
  for pair, by_environment in returns.items():
    values = []
    for environment, value in by_environment.items():
      others = [r[environment] for r in returns.values()
                if r[environment] is not None]
      if value is not None:
        values.append(_score(environment, value, others))
      elif others:
        values.append(min(_score(environment, x, others) for x in others))
    if values:
      scores[pair] = sum(values) / len(values)
  if not scores:
    raise jobs.JobError('no episode has ended yet; give the agents more steps')
  return Selection(max(scores, key=scores.get), scores, returns)


def lines_of(choice: Selection) -> list[str]:
  """Formats a table of all pairs, best first, and the choice."""
  environments = list(next(iter(choice.returns.values())))
  rows = []
  for pair in sorted(choice.scores, key=choice.scores.get, reverse=True):
    cells = ['-' if (x := choice.returns[pair][e]) is None else f'{x:.3g}'
             for e in environments]
    rows.append([f'{pair.learning_rate:g}', f'{pair.kl_cost:g}',
                 f'{choice.scores[pair]:.3g}', *cells])
  best = choice.best
  return [*markdown.table(
      ['learning rate', 'KL cost', 'score', *environments], rows), '',
          f'choice: --set=learning_rate={best.learning_rate:g} '
          f'--set=kl_cost={best.kl_cost:g}']
