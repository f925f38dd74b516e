"""Writes rows of metrics: scores of a rule's variants on several kinds."""

import json
import os
from typing import Any, Callable, Mapping, Optional, Sequence

from lpg_distributed import files
from lpg_distributed.figures import intervals
from lpg_distributed.store import loggers


def _unfinished(path: str, about: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the scores by kind that an interrupted call for `about` stored."""
  try:
    found = files.read_object(path)
    return {name: dict(row) for name, row in found['kinds'].items()
            } if found['about'] == about else {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}


def write(run_dir: str, file: str, step: int, num_lifetimes: int,
          names: Sequence[str], scores_of: Callable[[str], Mapping[str, Any]],
          resume_step: Optional[int] = None) -> dict[str, Any]:
  """Computes scores and writes them as a row of `metrics/FILE.jsonl`.

  Scores of finished kinds are stored until the row is written.

  Args:
    run_dir: directory of the run.
    file: name of the metrics file, without its ending.
    step: meta-step of the rule.
    num_lifetimes: lifetimes per kind.
    names: names of the kinds.
    scores_of: maps a kind to `evaluation.KindScore` by variant. It is not
      called for kinds that an interrupted call for the same rule has finished.
    resume_step: see `loggers.MetricsLogger`.

  Returns:
    The row: `num_lifetimes`, and `VARIANT/KIND` and
    `VARIANT/KIND/standard_error` for each variant and kind.
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


def text(row: Mapping[str, Any], column: str, label: str,
         sign: str = '±') -> str:
  """Formats a column of a row: label, mean, and half of the 95 % interval."""
  half = intervals.half_width(row[f'{column}/standard_error'],
                              row['num_lifetimes'])
  return f'{label} {row[column]:.2f} {sign} {half:.2f}'
