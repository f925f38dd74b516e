"""Shows the progress of a run: a live table, or plain lines."""

import sys
import time
from typing import Any, Mapping, NamedTuple, Optional

import rich.console
import rich.live
import rich.table

_PLAIN_PERIOD_S = 10.


class View(NamedTuple):
  """The displayed state of a run at one moment."""
  headline: str
  returns: list[tuple[str, str, str]]  # environment, now, best possible
  notes: list[str]


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}h{minutes:02d}m' if hours else f'{minutes}m{seconds:02d}s'


class Estimator:
  """Converts a learner's status to views; remembers the last returns."""

  def __init__(self, meta_steps: int, environments: tuple[str, ...],
               optima: Mapping[str, Optional[float]]):
    self._meta_steps = meta_steps
    self._environments = environments
    self._optima = optima
    self._known: dict[str, Any] = {}  # the last value of each metric
    self._first: Optional[tuple[float, int]] = None

  def view(self, status: Mapping[str, Any],
           evaluator: Optional[Mapping[str, Any]] = None) -> View:
    """Makes a view.

    Args:
      status: see `MetaLearner.get_status`.
      evaluator: the metrics of the evaluator on Atari.
    """
    step, row, counters = (status[k] for k in ('meta_step', 'row', 'counters'))
    now = time.monotonic()
    if row and self._first is None:  # Compilation belongs to the first step.
      self._first = now, step
    self._known.update({key: value for key, value in row.items()
                        if value is not None})
    parts = [f'meta-step {step}/{self._meta_steps}']
    if not row:
      parts.append(f'compiling, {status["shards_arrived"]}/{status["shards"]} '
                   'shards in')
    else:
      parts += [f'{row["env_steps_per_s"]:,.0f} env steps/s',
                f'{counters["env_steps"]:.2e} steps',
                f'gradient {row["gradient_norm"]:.2g}',
                f'resets {counters["resets"]}']
    ages = status['worker_ages_s']
    if ages:
      worker = max(ages, key=ages.get)
      parts.append(f'slowest worker {worker}: {ages[worker]:.0f} s')
    if self._first and step > self._first[1]:
      per_step = (now - self._first[0]) / (step - self._first[1])
      left = per_step * (self._meta_steps - step)
      parts.append(f'{_duration(left)} left')
    if status['frozen']:
      parts.append('finishing')
    notes = []
    if counters['stale'] or counters['duplicates']:
      notes.append(f'dropped: {counters["stale"]} stale, '
                   f'{counters["duplicates"]} double')
    if status['checkpoint_failure']:
      notes.append('the newest checkpoint could not be written: '
                   f'{status["checkpoint_failure"]}')
    if evaluator and 'frames' in evaluator:
      notes.append(
          f'{evaluator["game"]}: {evaluator["frames"]:,} frames, '
          f'{evaluator.get("frames_per_s") or 0:,.0f} frames/s, return '
          f'{_number(evaluator.get("return"))}')
    returns = [(name, _number(self._return(name)),
                _number(self._optima.get(name)))
               for name in self._environments]
    return View(', '.join(parts), returns, notes)

  def _return(self, name: str) -> Optional[float]:
    """Returns the final return of lifetimes, or of episodes until one ends."""
    return self._known.get(f'return/{name}',
                           self._known.get(f'episode_return/{name}'))


def _number(value: Optional[float]) -> str:
  return '-' if value is None else f'{value:.3g}'


def _table(view: View) -> rich.table.Table:
  table = rich.table.Table(title=view.headline, title_justify='left',
                           caption='\n'.join(view.notes),
                           caption_justify='left')
  table.add_column('environment')
  table.add_column('return', justify='right')
  table.add_column('optimal', justify='right')
  for row in view.returns:
    table.add_row(*row)
  return table


class ProgressDisplay:
  """Shows views: on a terminal at once, elsewhere every ten seconds."""

  def __init__(self, stream=None):
    self._stream = stream or sys.stderr
    console = rich.console.Console(file=self._stream)
    self._live = (rich.live.Live(console=console, refresh_per_second=2)
                  if console.is_terminal else None)
    self._last_headline, self._last_time = '', -_PLAIN_PERIOD_S

  def __enter__(self) -> 'ProgressDisplay':
    if self._live:
      self._live.__enter__()
    return self

  def __exit__(self, *exc_info) -> None:
    if self._live:
      self._live.__exit__(*exc_info)

  def show(self, view: View) -> None:
    if self._live:
      self._live.update(_table(view))
      return
    now = time.monotonic()
    if (view.headline == self._last_headline
        or now - self._last_time < _PLAIN_PERIOD_S):
      return
    self._last_headline, self._last_time = view.headline, now
    returns = ', '.join(f'{name} {value}' for name, value, _ in view.returns
                        if value != '-')
    lines = [view.headline] + ([f'  returns: {returns}'] if returns else [])
    lines += [f'  {note}' for note in view.notes]
    print('\n'.join(lines), file=self._stream, flush=True)


def make_watch(job, display):
  """Makes the function that shows a job's status; see `session.run`."""
  def watch(status):
    who = 'all seeds' if status.seed is None else f'seed {status.seed}'
    parts = [f'{job.environment} by {job.rule}, {who}',
             f'{status.env_steps:,}/{job.env_steps:,} steps',
             f'{status.env_steps_per_s:,.0f} env steps/s']
    if status.seconds_left is not None:
      parts.append(f'{status.seconds_left:,.0f} s left')
    notes = (['no episode has ended yet']
             if status.last_return is None and status.env_steps else [])
    shown = ('-' if status.last_return is None
             else f'{status.last_return:.3g}')
    display.show(View(', '.join(parts), [(job.environment, shown, '-')],
                      notes))

  return watch
