"""The steps that all experiments share: compute, store, draw.

An experiment is a module with `NAME`, `compute`, `draw` and `lines`. It writes
what it computes to a file of results. Figures and tables are always made from
that file, so that drawing again gives the same figure.
"""

import os
import sys
import time
from typing import Any, Callable, Mapping, Optional, Protocol, Sequence

from lpg_distributed.analysis import stored

Data = Mapping[str, Any]


class Experiment(Protocol):
  """A module of this package that computes and draws one experiment."""
  NAME: str  # name of the experiment in its results

  def draw(self, about: Data, data: Data) -> Any:
    """Draws the results; returns a matplotlib figure."""

  def lines(self, about: Data, data: Data) -> Sequence[str]:
    """Returns the results as lines of text."""


def report(text: str) -> None:
  """Prints a message about progress."""
  print(text, file=sys.stderr, flush=True)


def one_thread() -> None:
  """Limits XLA to one thread, as in meta-training, unless the user set it.

  It has an effect only before JAX initialises its devices.
  """
  os.environ.setdefault('NPROC', '1')
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=false')


def split(text: str) -> tuple[str, str]:
  """Splits `[LABEL=]PLACE` into (label, place); the label may be ''.

  A place that contains an equals sign needs a label.
  """
  label, sign, place = text.partition('=')
  return (label, place) if sign else ('', text)


def only(texts: Sequence[str], flag: str = '--rule') -> str:
  """Returns the only value of a flag that can be repeated.

  Raises:
    ResultsError: there are several values.
  """
  if len(texts) != 1:
    raise stored.ResultsError(f'{flag} is given {len(texts)} times; '
                              'allowed: once')
  return texts[0]


def check_counts(low: int = 1, **counts: int) -> None:
  """Raises ResultsError if one of these flags is below `low`."""
  for name, count in counts.items():
    if count < low:
      raise stored.ResultsError(f'--{name} is {count}; allowed: {low} or more')


def compute_and_store(experiment: Experiment, path: str, command: str,
                      compute: Callable[[], tuple[Data, Data]]) -> None:
  """Computes an experiment and writes its file of results.

  Args:
    experiment: the experiment's module.
    path: path of the file.
    command: the command that computes it; stored in the file.
    compute: returns `about` and `data`, see `stored`.
  """
  one_thread()
  about, data = compute()
  # Includes the time of parts that an earlier, stopped command computed.
  parts = [part.get('process_minutes', 0.) for part in data.values()
           if isinstance(part, Mapping)]
  minutes = round(max(time.process_time() / 60., sum(parts)), 2)
  stored.save(path, experiment.NAME, {
      **about, 'command': command, 'process_minutes': minutes}, data)


def show(experiment: Experiment, path: str,
         figure: Optional[str] = None) -> list[str]:
  """Draws a file of results, and formats it as text.

  Args:
    experiment: the experiment's module.
    path: path of the file.
    figure: path of the figure; None: beside the results, as .svg.

  Returns:
    Lines to print; the last one names the figure.

  Raises:
    ResultsError: the results cannot be read, or the figure not be written.
  """
  about, data = stored.load(path, experiment.NAME)
  from lpg_distributed.figures import style  # Here, since its import is slow.
  figure = figure or os.path.splitext(path)[0] + '.svg'
  try:
    lines = list(experiment.lines(about, data))
    drawn = experiment.draw(about, data)
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
          StopIteration) as error:
    raise stored.ResultsError(
        f'the results in {path} cannot be shown: {error!r}') from error
  try:
    os.makedirs(os.path.dirname(figure) or '.', exist_ok=True)
    style.save(drawn, figure)
  except (OSError, ValueError) as error:
    raise stored.ResultsError(f'{figure} cannot be drawn: {error}') from None
  return [*lines, f'figure: {os.path.relpath(figure)}']
