"""Reads and draws the evaluator's returns on Atari games in a run."""

from typing import Any, NamedTuple, Sequence

import numpy as np

from lpg_distributed.envs import atari
from lpg_distributed.figures import style
from lpg_distributed.store import loggers


class Evaluation(NamedTuple):
  """The training of one agent by one eta."""
  game: str
  meta_step: int
  frames: np.ndarray  # [n], of the rows that have a return
  returns: np.ndarray  # [n]
  done: bool


def read(run_dir: str) -> list[Evaluation]:
  """Returns evaluations in which an episode ended, by game and meta-step.

  If a restarted evaluator wrote the same frames again, the later row is used.
  """
  rows: dict[tuple[str, int], dict[int, Any]] = {}
  done = set()
  for row in loggers.read_metrics(run_dir, 'evaluator'):
    key = row.get('game'), row['step']
    if row.get('return') is not None:
      rows.setdefault(key, {})[row['frames']] = row['return']
    if row.get('event') in ('end', 'diverged'):
      done.add(key)
  return [Evaluation(game, step, *map(np.array, zip(*sorted(values.items()))),
                     (game, step) in done)
          for (game, step), values in sorted(rows.items())]


def games(evaluations: Sequence[Evaluation]) -> list[str]:
  """Returns the games that were evaluated, in alphabetical order."""
  return sorted({evaluation.game for evaluation in evaluations})


def _draw_scores(axes, game: str, top: float) -> None:
  """Draws the scores of the random agent and of a human, if below `top`."""
  scores = atari.scores().get(game)
  if scores is None:
    return
  axes.axhline(scores.random, color='gray', linestyle=':', label='random')
  if scores.random + 2. * (top - scores.random) > scores.human:
    axes.axhline(scores.human, color='gray', linestyle='--', label='human')


def draw_final(axes, game: str, evaluations: Sequence[Evaluation]) -> None:
  """Draws final returns over the meta-step of the agents' eta."""
  mine = [e for e in evaluations if e.game == game and e.done]
  axes.plot([e.meta_step for e in mine], [e.returns[-1] for e in mine],
            marker='.', label='end of evaluation', **style.line(0))
  _draw_scores(axes, game, max([e.returns[-1] for e in mine], default=0.))
  axes.set_title(f'Atari: {game}')
  axes.set_ylabel('return')
