"""Follows a run: does its rule improve, and does it use predictions?

It simulates held-out lifetimes with each snapshot of eta in these variants:

- unchanged
- with alpha_y = 0: agents never learn predictions
- with phi held at its mean: the rule does not see predictions
- with t / T held at its mean, if the rule sees the age

Rows are written to `metrics/ablations.jsonl` in the run, one per meta-step.
`lpg plot` draws them.
"""

import time
from typing import Any, Callable, Optional

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import score_rows
from lpg_distributed.analysis import stored
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory

FILE = 'ablations'
FULL, NO_Y, HELD_PHI = 'full', 'alpha_y=0', 'phi_held'
HELD_AGE = 'age_held'
VARIANTS = (FULL, NO_Y, HELD_PHI, HELD_AGE)
_POLL_S = 20.


def read(run_dir: str) -> list[dict[str, Any]]:
  """Returns the rows, ordered by meta-step."""
  rows = {row['step']: row for row in loggers.read_metrics(run_dir, FILE)}
  return [rows[step] for step in sorted(rows)]


class Follower:
  """Evaluates the snapshots of one run, each once."""

  def __init__(self, run_dir: str, num_lifetimes: int, every: int = 1):
    """Loads the run.

    Args:
      run_dir: directory of the run.
      num_lifetimes: lifetimes per kind and variant.
      every: n; every n-th snapshot is evaluated.
    """
    # Imported here, since it imports JAX, which `read` does not need.
    from lpg_distributed.analysis import evaluation
    self._run_dir, self._num_lifetimes = run_dir, num_lifetimes
    self._every = every
    self._evaluation = evaluation
    self._config = run_directory.read_config(run_dir)
    self._comparisons = {
        name: evaluation.Comparison(self._config, name, num_lifetimes)
        for name in self._config.environments}

  def due(self) -> list[tuple[int, str]]:
    """Returns (meta-step, file) of the snapshots without a row."""
    from lpg_distributed.analysis import sources
    done = {row['step'] for row in read(self._run_dir)}
    return [(step, path) for step, path in sources.snapshots(
        self._run_dir)[self._every - 1::self._every] if step not in done]

  def _bandit(self) -> Optional[dict[str, Any]]:
    """Returns the bandit's state in the last checkpoint; None if none."""
    from lpg_distributed.store import checkpointing
    try:
      checkpoint = checkpointing.latest(self._run_dir)
      return checkpoint and checkpointing.load_json(checkpoint, 'bandit')
    except checkpointing.CheckpointError:
      return None  # The run has just removed it; a later call finds a new one.

  def evaluate(self, step: int, path: str) -> dict[str, Any]:
    """Evaluates one snapshot; writes its row and returns it."""
    from lpg_distributed.store import eta_file
    variants = self._evaluation.with_ablations(
        self._config.rule, eta_file.load(path).eta, *VARIANTS)
    bandit = self._bandit()
    return {'step': step, **score_rows.write(
        self._run_dir, FILE, step, self._num_lifetimes,
        self._config.environments,
        lambda name: self._comparisons[name].scores(variants, bandit))}


def line_of(row: dict[str, Any], config: config_lib.Config) -> str:
  """Formats a row as a line of text, with halves of 95 % intervals."""
  parts = []
  for name in config.environments:
    cells = [score_rows.text(row, f'{label}/{name}', label)
             for label in VARIANTS if f'{label}/{name}' in row]
    parts.append(f'{name}: ' + ', '.join(cells))
  return f'meta-step {row["step"]}: ' + '; '.join(parts)


def follow(run_dir: str, write_line: Callable[[str], None],
           num_lifetimes: int = 32, every: int = 1, watch: bool = False
           ) -> None:
  """Evaluates the snapshots of a run that have no row yet.

  Args:
    run_dir: directory of the run.
    write_line: called with each new row as a line of text.
    num_lifetimes: lifetimes per kind and variant.
    every: evaluates every n-th snapshot.
    watch: whether to wait for new snapshots until the run ends.

  Raises:
    UserError: there is no such run, or it has no snapshots.
  """
  experiment.check_counts(2, num_lifetimes=num_lifetimes)
  experiment.check_counts(every=every)
  config = run_directory.read_config(run_dir)
  from lpg_distributed.analysis import sources  # Imports JAX.
  follower = Follower(run_dir, num_lifetimes, every)
  while True:
    # Checked before snapshots are listed, so that the last one is not missed.
    ended = sources.reached_end(run_dir)
    for step, path in follower.due():
      write_line(line_of(follower.evaluate(step, path), config))
    if ended or not watch:
      break
    time.sleep(_POLL_S)
  if not read(run_dir):
    raise stored.ResultsError(f'{run_dir} has no snapshots of eta yet')
