"""Returns to compare with, per environment; see `optimal` for how they came.

`optimal_returns.json` is data: the optimal policy's mean undiscounted episode
return where it can be computed, and the uniformly random policy's.
"""

import functools
import json
import os
from typing import Any, Mapping, Optional

_PATH = os.path.join(os.path.dirname(__file__), 'optimal_returns.json')


@functools.lru_cache(maxsize=1)
def load() -> Mapping[str, Mapping[str, Any]]:
  """Per environment `optimal` (null where not known) and `random`.

  Also their standard errors, `method`, and for grid worlds `by_num_actions`.
  """
  with open(_PATH, encoding='utf-8') as f:
    return json.load(f)


def save(entries: Mapping[str, Mapping[str, Any]]) -> None:
  """Writes what `load` reads."""
  with open(_PATH, 'w', encoding='utf-8') as f:
    json.dump(entries, f, indent=1)
    f.write('\n')
  load.cache_clear()


def optima() -> dict[str, Optional[float]]:
  """The optimal return of every environment, None where not known."""
  return {name: entry['optimal'] for name, entry in load().items()}
