"""What the experiments share: compute, store, draw.

Each experiment is a module with `NAME`, `compute`, `draw` and `lines`. What it
computes goes to a file of results. Figures and tables are always made from
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
  NAME: str  # of its results

  def draw(self, about: Data, data: Data) -> Any:
    """Draws the results; returns a matplotlib figure."""

  def lines(self, about: Data, data: Data) -> Sequence[str]:
    """Returns the results as lines of text."""


def say(text: str) -> None:
  """Tells the user what is being computed."""
  print(text, file=sys.stderr, flush=True)


def one_thread() -> None:
  """Limits XLA to one thread, as in meta-training, unless the user chose.

  Works until JAX has looked for its devices.
  """
  os.environ.setdefault('NPROC', '1')
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=false')


def split(text: str) -> tuple[str, str]:
  """`[LABEL=]PLACE` as (label, place); '' for a label that is not there.

  A place with an equals sign in it needs a label.
  """
  label, sign, place = text.partition('=')
  return (label, place) if sign else ('', text)


def only(texts: Sequence[str], flag: str = '--rule') -> str:
  """The single value of a flag that may be given many times.

  Raises:
    ResultsError: there are several.
  """
  if len(texts) != 1:
    raise stored.ResultsError(f'{flag} is there {len(texts)} times; '
                              'allowed: once')
  return texts[0]


def check_counts(low: int = 1, **counts: int) -> None:
  """Raises ResultsError for the first of these flags that is below `low`."""
  for name, count in counts.items():
    if count < low:
      raise stored.ResultsError(f'--{name} is {count}; allowed: {low} or more')


def compute_and_store(experiment: Experiment, path: str, command: str,
                      compute: Callable[[], tuple[Data, Data]]) -> None:
  """Writes a file of results.

  Args:
    experiment: whose results these are.
    path: of the file.
    command: by which they are computed; the file states it.
    compute: returns `about` and `data`, see `stored`.
  """
  one_thread()
  about, data = compute()
  minutes = round(time.process_time() / 60., 2)
  stored.save(path, experiment.NAME, {
      **about, 'command': command, 'process_minutes': minutes}, data)


def show(experiment: Experiment, path: str,
         figure: Optional[str] = None) -> list[str]:
  """Draws a file of results.

  Args:
    experiment: whose results these are.
    path: of the file.
    figure: where it is drawn; default: beside the results, as .png.

  Returns:
    Lines to be printed, of which the last names the figure.

  Raises:
    ResultsError: no such results, or no such place or format of a figure.
  """
  about, data = stored.load(path, experiment.NAME)
  lines = list(experiment.lines(about, data))
  from lpg_distributed.figures import style  # Here, since it is slow to import.
  figure = figure or os.path.splitext(path)[0] + '.png'
  try:
    os.makedirs(os.path.dirname(figure) or '.', exist_ok=True)
    experiment.draw(about, data).savefig(figure, dpi=style.DPI)
  except (OSError, ValueError) as error:
    raise stored.ResultsError(f'{figure} cannot be drawn: {error}') from None
  return [*lines, f'figure: {os.path.relpath(figure)}']
