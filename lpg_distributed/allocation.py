"""Divides a run's lifetimes among its environments.

The objective, Eq. (1), is a mean over environments. Its gradient is estimated
as the sum of p_k times the mean over the n_k lifetimes of environment k, where
p_k is the environment's share.

- `by_share` makes n_k proportional to p_k, so that the estimate is the plain
  mean over all lifetimes.
- `by_cost` gives fewer lifetimes to environments with expensive steps. Their
  gradients then need `weights`.
"""

import math
from typing import Any, Sequence

# Time of an environment step that the agent needs, relative to the rule's with
# 256 units: by the widest convolution, and for dense layers only. Tables need
# almost none. From the column `us` of benchmarks/README.md.
_CONV_COST = {16: 3.4, 32: 51.}
_DENSE_COST = 0.05
# The rule's time is about proportional to the number of its units plus this.
_RULE_OVERHEAD_UNITS = 40


def relative_cost(agent: Any, lstm_size: int = 256) -> float:
  """Cost of an environment step, relative to that of an agent with a table.

  Args:
    agent: `config.AgentConfig`, a row of Table 3.
    lstm_size: units of the rule.
  """
  if agent.is_table:
    return 1.
  width = max(agent.conv, default=0)
  cost = _CONV_COST.get(width, 1.6 * width) if width else _DENSE_COST
  rule = (lstm_size + _RULE_OVERHEAD_UNITS) / (256 + _RULE_OVERHEAD_UNITS)
  return 1. + cost / rule


def _largest_remainder(total: int, exact: Sequence[float],
                       counts: list[int]) -> tuple[int, ...]:
  """Adds one to `counts` by largest remainder, until their sum is `total`."""
  by_remainder = sorted(range(len(exact)),
                        key=lambda i: (int(exact[i]) - exact[i], i))
  for i in by_remainder[:total - sum(counts)]:
    counts[i] += 1
  return tuple(counts)


def by_share(total: int, shares: Sequence[float]) -> tuple[int, ...]:
  """Splits `total` lifetimes by share; each environment gets at least one."""
  spare = total - len(shares)
  exact = [spare * share / sum(shares) for share in shares]
  return _largest_remainder(total, exact, [1 + int(x) for x in exact])


def by_cost(total: int, shares: Sequence[float],
            costs: Sequence[float]) -> tuple[int, ...]:
  """Splits `total` lifetimes in proportion to share / sqrt(cost), at least one.

  If all lifetimes' gradients have the same variance, no other split has both a
  lower cost and a lower variance (optimal allocation; Cochran, Sampling
  Techniques, Section 5.5).
  """
  wanted = [share / math.sqrt(cost) for share, cost in zip(shares, costs)]
  one = set()  # environments that would get less than one lifetime
  while True:
    rest = total - len(one)
    scale = sum(w for i, w in enumerate(wanted) if i not in one)
    exact = [1. if i in one else rest * w / scale for i, w in enumerate(wanted)]
    fewer = {i for i, x in enumerate(exact) if x < 1.}
    if not fewer or len(one | fewer) == len(wanted):
      break
    one |= fewer
  return _largest_remainder(total, exact, [max(1, int(x)) for x in exact])


def weights(counts: Sequence[int],
            shares: Sequence[float]) -> tuple[float, ...]:
  """Returns, per environment, the factor on its lifetimes' gradients.

  With these the mean over all lifetimes has the expectation of the sum of p_k
  times the gradient of environment k, whatever the numbers of lifetimes.
  """
  return tuple(share / sum(shares) * sum(counts) / count
               for share, count in zip(shares, counts))
