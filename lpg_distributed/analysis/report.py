"""Evaluates and summarises a run at its end.

The trained rule is compared with the untrained one and with two ablations. The
learning curves are drawn.
"""

import os
import sys

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import score_rows
from lpg_distributed.analysis import training_curves
from lpg_distributed.store import loggers

_NUM_LIFETIMES = 32
TRAINED, UNTRAINED = 'trained', 'untrained'
NO_Y, HELD_PHI = 'trained, alpha_y = 0', 'trained, phi held at its mean'
HELD_AGE = 'trained, age held at its mean'
VARIANTS = (UNTRAINED, TRAINED, NO_Y, HELD_PHI, HELD_AGE)


def evaluate(run_dir: str, config: config_lib.Config,
             num_lifetimes: int = _NUM_LIFETIMES) -> None:
  """Compares the run's rule with an untrained one; writes metrics.

  Two ablations of the trained rule measure the benefit of predictions: agents
  never learn y (alpha_y = 0), or the rule sees the mean of phi(y) in place of
  phi(y). A rule that sees the age has a third: it sees the mean of t / T.

  Args:
    run_dir: directory of the run; `metrics/evaluation.jsonl` is written there.
    config: configuration of the run.
    num_lifetimes: lifetimes per kind and variant.
  """
  # Imported here, since they import JAX.
  from lpg_distributed.analysis import evaluation
  from lpg_distributed.core import meta_update
  from lpg_distributed.store import checkpointing
  from lpg_distributed.store import eta_file
  trained = eta_file.load(os.path.join(run_dir, 'eta.npz'))
  done = list(loggers.read_metrics(run_dir, 'evaluation'))
  step = trained.info.get('meta_step', 0)
  if done and done[-1]['step'] == step:
    return
  untrained = meta_update.init(config).eta
  variants = {UNTRAINED: evaluation.Variant(untrained),
              **evaluation.with_ablations(config.rule, trained.eta, TRAINED,
                                          NO_Y, HELD_PHI, HELD_AGE)}
  checkpoint = checkpointing.latest(run_dir)
  bandit_state = checkpoint and checkpointing.load_json(checkpoint, 'bandit')

  def scores_of(name):
    print(f'evaluating on {num_lifetimes} new lifetimes of {name}',
          file=sys.stderr, flush=True)
    return evaluation.evaluate(config, name, variants, bandit_state,
                               num_lifetimes)

  score_rows.write(run_dir, 'evaluation', step, num_lifetimes,
                   config.environments, scores_of, resume_step=step)


def summarise(run_dir: str, config: config_lib.Config) -> list[str]:
  """Draws the figure; returns the lines to print."""
  lines = []
  rows = list(loggers.read_metrics(run_dir, 'evaluation'))
  if rows:
    row = rows[-1]
    lines.append(f'Return at the end of {row["num_lifetimes"]} new lifetimes, '
                 f'after {row["step"]} meta-steps (+- half of the 95 % '
                 'interval):')
    for name in config.environments:
      parts = [score_rows.text(row, f'{variant}/{name}', variant, '+-')
               for variant in VARIANTS
               if f'{variant}/{name}' in row]
      lines.append(f'  {name}: ' + '; '.join(parts))
  figure = training_curves.draw(run_dir)
  lines.append(f'figure: {os.path.relpath(figure)}')
  lines.append(f'rule: {os.path.relpath(os.path.join(run_dir, "eta.npz"))}')
  return lines
