"""Summarises results in a few numbers."""

import os
from typing import Any, Iterable, NamedTuple, Optional, Sequence

import numpy as np

from lpg_distributed.figures import intervals
from lpg_distributed.meta_testing import results

_LAST = 0.1  # last part of an agent's steps, over which final returns are means


class MeanReturn(NamedTuple):
  """Mean over agents, and its standard error (None for a single agent)."""
  mean: float
  standard_error: Optional[float]
  num_agents: int

  @property
  def half_width(self) -> Optional[float]:
    """Half of the 95 % interval; None for a single agent."""
    if self.standard_error is None:
      return None
    return float(intervals.half_width(self.standard_error, self.num_agents))

  def __str__(self) -> str:
    if self.half_width is None:
      return f'{self.mean:.3g}'
    return f'{self.mean:.3g} ± {intervals.half_text(self.half_width)}'


def final_return(rows: Sequence[dict[str, Any]],
                 last: float = _LAST) -> Optional[float]:
  """Mean return of the episodes in the last part of an agent's steps.

  If no episode ended in that part, it is the return of the last row that has
  one; None if no row has.
  """
  ended = [row for row in rows if row['return'] is not None]
  if not ended:
    return None
  limit = (1. - last) * max(row['env_steps'] for row in rows)
  late = [row for row in ended if row['env_steps'] > limit] or ended[-1:]
  weights = [row['episodes'] for row in late]
  return float(np.average([row['return'] for row in late], weights=weights))


def by_seed(result: results.Result) -> dict[int, list[dict[str, Any]]]:
  """Returns each agent's rows, ordered by steps."""
  agents = {seed: [] for seed in result.job.seeds}
  for row in result.rows:
    agents[row['seed']].append(row)
  return agents


def as_array(values: Iterable[Optional[float]]) -> np.ndarray:
  """Returns an array with NaN in place of None."""
  return np.array([np.nan if value is None else value for value in values])


def score(values: Sequence[float]) -> MeanReturn:
  """Computes the mean over agents and its standard error."""
  error = float(intervals.standard_error(values)) if values[1:] else None
  return MeanReturn(float(np.mean(values)), error, len(values))


def final_score(result: results.Result) -> Optional[MeanReturn]:
  """Computes the score over the agents that finished an episode."""
  values = [final_return(rows) for rows in by_seed(result).values()]
  values = [value for value in values if value is not None]
  return score(values) if values else None


def lines(path: str) -> list[str]:
  """Describes a result in lines of text."""
  result = results.read(path)
  found = final_score(result)
  job = result.job
  preset = f' ({job.preset})' if job.preset else ''
  text = 'no episode ended' if found is None else f'return {found}'
  if found is not None and found.num_agents > 1:
    text += f' (95 % interval over {found.num_agents} seeds)'
  broken = {row['seed'] for row in result.rows if row.get('diverged')}
  if broken:
    text += f'; diverged: seeds {sorted(broken)}'
  # Two rules of a comparison may be of the same kind.
  eta = ''
  if job.eta is not None and job.rule != 'random':
    path = os.path.relpath(job.eta) if os.path.isabs(job.eta) else job.eta
    eta = f' ({path})'
  return [f'{job.environment}{preset} by {job.rule}{eta}: {text}']
