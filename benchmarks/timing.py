"""Times calls relative to a matrix product, on a machine shared with others.

A time on a busy machine is not reproducible. Its ratio to the time of a matrix
product is more so, if the product is timed between the calls in the same
process. Two ratios are reported: best to best and median to median. If they are
far apart, neither is reliable. A call is not compared with the products next to
it: a call of seconds and a product of milliseconds are disturbed differently.
Processes have one thread and measure processor time, so the time in which they
wait for a core does not count.
"""

import os
import time
from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Sizes m, k, n of [m, k] @ [k, n], for which matrix products are fast.
_GEMM = (1024, 256, 1024)
_GEMM_FLOPS = 2. * _GEMM[0] * _GEMM[1] * _GEMM[2]


class Measured(NamedTuple):
  """Processor time of one call."""
  best_s: float
  median_s: float
  repeats: int


class Gemm(NamedTuple):
  """Speed of the matrix product, in FLOP/s."""
  best: float
  median: float


def _make_gemm() -> Callable[[], float]:
  m, k, n = _GEMM
  a, b = jnp.ones((m, k)), jnp.ones((k, n))
  product = jax.jit(lambda a, b: a @ b).lower(a, b).compile()
  return lambda: seconds(lambda: product(a, b))


def seconds(call: Callable[[], Any]) -> float:
  """Runs a call to its end; returns its processor time in seconds."""
  start = time.process_time()
  jax.block_until_ready(call())
  return time.process_time() - start


def measure(calls: Mapping[str, Callable[[], Any]], repeats: int,
            budget_s: float) -> tuple[dict[str, Measured], Gemm]:
  """Runs all calls round by round, with matrix products before and after each.

  Args:
    calls: compiled functions by name; each runs once before it is timed.
    repeats: largest number of rounds.
    budget_s: no round begins after this time, but two always run.
  """
  gemm = _make_gemm()
  gemm()
  for call in calls.values():
    jax.block_until_ready(call())
  records, products = {name: [] for name in calls}, []
  start = time.monotonic()
  for turn in range(repeats):
    if turn >= 2 and time.monotonic() - start > budget_s:
      break
    for name, call in calls.items():
      products += [gemm(), gemm()]
      records[name].append(seconds(call))
      products += [gemm(), gemm()]
  measured = {name: Measured(min(record), float(np.median(record)),
                             len(record))
              for name, record in records.items()}
  return measured, Gemm(_GEMM_FLOPS / min(products),
                        _GEMM_FLOPS / float(np.median(products)))


def machine() -> dict[str, Any]:
  """Describes the machine and the software that measurements depend on."""
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as f:
      lines = [line.split(':')[1].strip() for line in f
               if line.startswith(('model name', 'cpu family', 'model\t'))]
  except OSError:
    lines = []
  return {'processor': ' / '.join(dict.fromkeys(lines)),
          'processors': os.cpu_count(), 'load_1min': os.getloadavg()[0],
          'jax': jax.__version__, 'device': jax.devices()[0].device_kind}
