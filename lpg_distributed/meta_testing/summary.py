"""What results say in a few numbers."""

from typing import Any, NamedTuple, Optional, Sequence

import numpy as np

from lpg_distributed.meta_testing import results

_LAST = 0.1  # of an agent's steps, that "at the end" means


class Score(NamedTuple):
  """Mean over agents, and its standard error (None of a single agent)."""
  mean: float
  standard_error: Optional[float]
  num_agents: int

  def __str__(self) -> str:
    if self.standard_error is None:
      return f'{self.mean:.3g}'
    return f'{self.mean:.3g} ± {self.standard_error:.2g}'


def final_return(rows: Sequence[dict[str, Any]],
                 last: float = _LAST) -> Optional[float]:
  """Mean return of the episodes in the last part of one agent's steps.

  None where no episode ended then and none did before. Where none ended in
  that part, it is the return of the last row that has one.
  """
  ended = [row for row in rows if row['return'] is not None]
  if not ended:
    return None
  limit = (1. - last) * max(row['env_steps'] for row in rows)
  late = [row for row in ended if row['env_steps'] > limit] or ended[-1:]
  weights = [row['episodes'] for row in late]
  return float(np.average([row['return'] for row in late], weights=weights))


def by_seed(result: results.Result) -> dict[int, list[dict[str, Any]]]:
  """Each agent's rows, in the order of steps."""
  agents = {seed: [] for seed in result.job.seeds}
  for row in result.rows:
    agents[row['seed']].append(row)
  return agents


def score(values: Sequence[float]) -> Score:
  """Of several agents."""
  error = (float(np.std(values, ddof=1) / np.sqrt(len(values)))
           if len(values) > 1 else None)
  return Score(float(np.mean(values)), error, len(values))


def final_score(result: results.Result) -> Optional[Score]:
  """Over the agents that finished an episode."""
  values = [final_return(rows) for rows in by_seed(result).values()]
  values = [value for value in values if value is not None]
  return score(values) if values else None


def lines(path: str) -> list[str]:
  """A result in words."""
  result = results.read(path)
  found = final_score(result)
  job = result.job
  preset = f' ({job.preset})' if job.preset else ''
  text = 'no episode ended' if found is None else f'return {found}'
  if found is not None and found.num_agents > 1:
    text += f' (standard error over {found.num_agents} seeds)'
  broken = {row['seed'] for row in result.rows if row.get('diverged')}
  if broken:
    text += f'; diverged: seeds {sorted(broken)}'
  return [f'{job.environment}{preset} by {job.rule}: {text}']
