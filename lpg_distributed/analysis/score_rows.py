"""A row of metrics with what lifetimes of several kinds have returned."""

import json
import os
from typing import Any, Callable, Mapping, Optional, Sequence

from lpg_distributed.store import files
from lpg_distributed.store import loggers


def _unfinished(path: str, about: Mapping[str, Any]) -> dict[str, Any]:
  """What an interrupted call of the same `about` has left, by kind."""
  try:
    with open(path, encoding='utf-8') as f:
      found = json.load(f)
    return found['kinds'] if found['about'] == about else {}
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def write(run_dir: str, file: str, step: int, num_lifetimes: int,
          names: Sequence[str], scores_of: Callable[[str], Mapping[str, Any]],
          resume_step: Optional[int] = None) -> dict[str, Any]:
  """Writes a row to `metrics/FILE.jsonl`; kinds are kept until it stands there.

  Args:
    run_dir: of the run.
    file: the name of the metrics.
    step: the meta-step of the rule.
    num_lifetimes: of each kind.
    names: of the kinds.
    scores_of: a kind to `evaluation.Score` by variant; not asked for kinds
      that an interrupted call of the same rule has done.
    resume_step: see `loggers.MetricsLogger`.

  Returns:
    The row: `num_lifetimes`, and for each variant and kind `VARIANT/KIND` and
    `VARIANT/KIND/standard_error`.
  """
  path = os.path.join(run_dir, 'metrics', f'{file}.unfinished.json')
  about = {'step': step, 'num_lifetimes': num_lifetimes}
  kinds = _unfinished(path, about)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  for name in names:
    if name in kinds:
      continue
    kinds[name] = {}
    for variant, score in scores_of(name).items():
      kinds[name][f'{variant}/{name}'] = score.mean
      kinds[name][f'{variant}/{name}/standard_error'] = score.standard_error
    files.write_whole(path, json.dumps(
        {'about': about, 'kinds': kinds}).encode())
  row = {'num_lifetimes': num_lifetimes}
  for name in names:
    row.update(kinds[name])
  logger = loggers.MetricsLogger(run_dir, file, resume_step, tensorboard=False)
  logger.write(step, row)
  logger.close()
  os.remove(path)
  return row
