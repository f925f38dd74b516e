"""Measures the norms of lifetimes' meta-gradients, and their agreement.

Independent lifetimes of each kind learn by one fixed rule. Each gives one
meta-gradient; the ages at which they are taken are spread over a lifetime.
Results are:

- The norms. The largest can be a thousand times the median.
- The agreement of batches: the mean cosine between the sums of two batches
  without a common lifetime. It is 1 without noise, and 0 if there is only
  noise. With a limit, each lifetime's gradient is first clipped to that norm,
  as by `meta.max_lifetime_gradient_norm`. Clipping the sum changes no cosine.
"""

import numpy as np

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import stored
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style

NAME = 'gradient_noise'
ALL = 'all together'
LIMITS = (0., 0.3, 0.1, 0.03, 0.01, 0.003)  # 0: no clipping
_QUANTILES = (0.1, 0.5, 0.9, 0.99)
# Differs from the seeds of training, which are small.
_FIRST_SEED = 1_000_000


def lifetime_gradients(config, environment, eta, num_lifetimes, seed,
                       arm_log_probs):
  """Computes one meta-gradient of each lifetime, [L, P], without clipping.

  Args:
    config: configuration of the rule's training.
    environment: name of the environment kind.
    eta: [P].
    num_lifetimes: L.
    seed: seed of the lifetimes.
    arm_log_probs: [arms], log-probabilities of the hyperparameters.
  """
  # Imported here, since drawing does not need JAX.
  import jax

  from lpg_distributed import config_io
  from lpg_distributed.core import lifetime
  config = config_io.merge(config, {'meta': {'max_lifetime_gradient_norm': 0}})
  shard = lifetime.make_shard(config, environment, 1)
  advance = jax.jit(shard.advance)
  windows = config.lifetime_windows(environment)
  gradients = []
  for i in range(num_lifetimes):
    state = shard.empty()
    shard_id = lifetime.ShardId(*np.int32(
        [(_FIRST_SEED + seed) % 2 ** 31, i, 0, 1]))
    for window in range(1 + i * windows // num_lifetimes):
      gradient, state, _ = advance(eta, arm_log_probs, state, shard_id,
                                   np.int32(window))
    gradients.append(np.asarray(gradient, np.float64))
  return np.stack(gradients)


def clip(gradients: np.ndarray, limit: float) -> np.ndarray:
  """Clips each of [L, P] to a norm of at most `limit`; 0 clips none."""
  norms = np.linalg.norm(gradients, axis=-1, keepdims=True)
  return gradients * (limit / np.maximum(norms, limit) if limit else 1.)


def batch_sums(gradients: np.ndarray, size: int) -> np.ndarray:
  """Sums gradients [L, P] over batches to [L // size, P].

  Batches are strided, so that each spans all ages.
  """
  number = len(gradients) // size
  return np.stack([gradients[i:number * size:number].sum(axis=0)
                   for i in range(number)])


def agreement(sums: np.ndarray) -> float:
  """Mean cosine between pairs of N vectors [N, P]; NaN if a vector is zero."""
  lengths = np.linalg.norm(sums, axis=-1, keepdims=True)
  if not lengths.all():
    return float('nan')
  number = len(sums)
  square = np.sum(np.square(np.mean(sums / lengths, axis=0)))
  return float((number * square - 1.) / (number - 1.))


def _agreements(gradients, batch):
  """Returns one kind's agreement by limit, and the sums of its batches."""
  sums = {limit: batch_sums(clip(gradients, limit), batch)
          for limit in LIMITS}
  return {str(limit): agreement(s) for limit, s in sums.items()}, sums


def compute(rule: str, average_last: int = 1, seed: int = 0,
            num_lifetimes: int = 60, batch: int = 6):
  """Computes meta-gradients of one rule; returns `about` and `data`.

  Args:
    rule: see `sources.read`.
    average_last: see `sources.read`.
    seed: seed of the lifetimes.
    num_lifetimes: lifetimes per kind.
    batch: lifetimes per kind in a batch.
  """
  from lpg_distributed.analysis import sources
  experiment.check_counts(batch=batch)
  if num_lifetimes < 2 * batch:
    raise stored.ResultsError(
        f'--num_lifetimes is {num_lifetimes}; allowed: two batches or '
        f'more, so {2 * batch} or more')
  source = sources.read(rule, average_last)
  norms, agreements, total = {}, {}, dict.fromkeys(LIMITS, 0.0)
  for name in source.config.environments:
    experiment.report(f'{num_lifetimes} lifetimes of {name}')
    gradients = lifetime_gradients(
        source.config, name, source.eta, num_lifetimes, seed,
        source.arm_log_probs(name))
    norms[name] = np.linalg.norm(gradients, axis=-1)
    agreements[name], sums = _agreements(gradients, batch)
    total = {limit: total[limit] + sums[limit] for limit in LIMITS}
  agreements[ALL] = {str(limit): agreement(total[limit]) for limit in LIMITS}
  about = {'rule': {'label': source.label, **source.about},
           'num_lifetimes': num_lifetimes, 'batch': batch,
           'seed': seed}
  return about, {'limits': LIMITS, 'norms': norms, 'agreement': agreements}


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  figure, (left, right) = style.panels(2, 2, 1.1)
  figure.set_figheight(4.)
  names = list(data['norms'])
  for i, name in enumerate(names):
    norms = np.sort(np.array(data['norms'][name], float))
    left.plot(norms, np.linspace(0., 1., len(norms)), label=name,
              **style.line(i))
  left.set_xscale('log')
  left.set_xlabel('norm of a lifetime\'s meta-gradient')
  left.set_ylabel('share of\nlifetimes below')
  labels = ['none' if not limit else f'{limit:g}' for limit in data['limits']]
  for i, name in enumerate([*names, ALL]):
    values = [data['agreement'][name][str(limit)] for limit in data['limits']]
    right.plot(labels, stored.as_array(values), marker='.', label=name,
               linewidth=2.5 if name == ALL else 1.,
               **style.line(i if name != ALL else len(style.COLOURS) - 1))
  right.set_xlabel('limit for each lifetime\'s norm')
  right.set_ylabel(f'agreement of\nbatches of {about["batch"]}')
  right.axhline(0., color='black', linewidth=0.5)
  style.note(figure, f'rule: {about["rule"]["label"]}; '
             f'{about["num_lifetimes"]} lifetimes of each kind')
  style.legend_below(figure, (left, right), 3)
  return figure


def lines(about, data):
  """Formats the results as lines of text."""
  head = ['environment', *(f'norm, {q:.0%}' for q in _QUANTILES),
          *(f'limit {limit:g}' if limit else 'no limit'
            for limit in data['limits'])]
  rows = []
  for name, found in data['agreement'].items():
    norms = data['norms'].get(name)
    cells = (['-'] * len(_QUANTILES) if norms is None else
             [f'{x:.2g}' for x in np.quantile(norms, _QUANTILES)])
    cells += ['-' if found[str(limit)] is None else f'{found[str(limit)]:.2f}'
              for limit in data['limits']]
    rows.append([name if norms is None else f'`{name}`', *cells])
  return [f'{about["rule"]["label"]}, {about["num_lifetimes"]} lifetimes of '
          f'each kind, batches of {about["batch"]}', '',
          *markdown.table(head, rows)]
