"""Reference returns per environment, which `optimal` computes.

`optimal_returns.json` holds the mean undiscounted return of an episode under
the optimal policy, where it is known, and under the uniformly random policy.
"""

import functools
import json
import os
from typing import Any, Mapping, Optional

_PATH = os.path.join(os.path.dirname(__file__), 'optimal_returns.json')


@functools.lru_cache(maxsize=1)
def load() -> Mapping[str, Mapping[str, Any]]:
  """Returns, per environment, `optimal` (None if unknown) and `random`.

  Entries also hold standard errors, `method`, and `by_num_actions` for grids.
  """
  with open(_PATH, encoding='utf-8') as f:
    return json.load(f)


def save(entries: Mapping[str, Mapping[str, Any]]) -> None:
  """Writes the file that `load` reads."""
  with open(_PATH, 'w', encoding='utf-8') as f:
    json.dump(entries, f, indent=1)
    f.write('\n')
  load.cache_clear()


def optima() -> dict[str, Optional[float]]:
  """Returns the optimal return of each environment; None if unknown."""
  return {name: entry['optimal'] for name, entry in load().items()}
