"""The common style of figures; colour-blind readers can tell colours apart."""

from typing import Any, Mapping, Optional, Sequence

import matplotlib
from matplotlib import figure as figure_lib
import numpy as np

FONT_SIZE = 9
DPI = 120
# Width and height in inches. Three panels are as wide as a page, so that text
# can be read at half of that width.
PANEL = (2.4, 1.9)
_ROOM = 0.6  # height of the note and the legend in inches
_WIDER = {1: 1.9, 2: 1.4}  # factors on a panel's width, by number of columns
# Lightness increases monotonically, so the map is readable in grey as well.
COLOUR_MAP = 'cividis'

# Okabe and Ito (2008), without yellow, which is hard to see on white.
_BLUE, _RED, _GREEN, _PINK, _SKY, _ORANGE, _BLACK = COLOURS = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00',
    '#000000')
# Line styles, for figures with more lines than colours, and for grey prints.
LINES = ('-', '--', '-.', ':', (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))

# Colour and line style of each method, the same in all figures.
_LOOKS: Mapping[str, tuple[str, Any]] = {
    'lpg': (_BLUE, '-'), 'rule': (_BLUE, '-'), 'all_kinds_pi': (_BLUE, '-'),
    'p800': (_BLUE, '-'), 'all_kinds': (_BLUE, '--'),
    'seed_1': (_SKY, '-'), 'twelve_kinds_pi_1': (_SKY, '-'),
    'seed_2': (_SKY, '--'), 'twelve_kinds_pi_2': (_SKY, '--'),
    'all_kinds_256_longer': (_PINK, '-'), 'all_kinds_256': (_PINK, '--'),
    'tables_and_chains_256': (_PINK, ':'),
    'chain_and_grid': (_ORANGE, '-'), 'lpg-2': (_ORANGE, '-'),
    'twelve_kinds': (_ORANGE, '--'),
    'lpg-v': (_GREEN, '-.'), 'lpg_v': (_GREEN, '-.'),
    'a2c': (_RED, LINES[5]), 'ppo': (_RED, '--'),
    'td(lambda)': (_RED, '-.'),
    'untrained': (_BLACK, ':'), 'random': (_BLACK, ':'),
    'alpha_y = 0': ('#555555', '--'), 'phi held': ('#999999', '-.'),
    'policy held': ('#777777', ':'), 'age held': ('#bbbbbb', '--'),
}
_OTHERS = (_SKY, _ORANGE, _PINK, _GREEN, _RED)


def line(index: int) -> dict[str, Any]:
  """Returns colour and style of the index-th line; they repeat after 42."""
  return {'color': COLOURS[index % len(COLOURS)],
          'linestyle': LINES[index // len(COLOURS) % len(LINES)]}


def distinct(index: int) -> dict[str, Any]:
  """Like `line`, for up to six lines, all of different styles."""
  return {**line(index), 'linestyle': LINES[index % len(LINES)]}


def methods(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Returns colour and line of each method, by label.

  A method that is known has the same look in all figures. Of the others, the
  first one looks like a learned rule if there is no other learned rule.
  """
  known = {label: _LOOKS.get(label.lower()) for label in labels}
  result, others = {}, 0
  free = _BLUE not in {look[0] for look in known.values() if look}
  for label, look in known.items():
    if look is None:
      if free:
        look, free = (_BLUE, '-'), False
      else:
        look = (_OTHERS[others % len(_OTHERS)], LINES[others % len(LINES)])
        others += 1
    result[label] = {'color': look[0], 'linestyle': look[1]}
  return result


def figure(width: float, height: float) -> figure_lib.Figure:
  """Returns an empty figure; width and height are in inches."""
  matplotlib.rcParams['font.size'] = FONT_SIZE
  matplotlib.rcParams['axes.titlesize'] = FONT_SIZE
  return figure_lib.Figure(figsize=(width, height), layout='constrained')


def plot_interval(axes: Any, x: Any, mean: np.ndarray, half: np.ndarray,
                  label: str, look: Mapping[str, Any], **kwargs) -> None:
  """Plots means as a line, and their intervals as a band.

  Args:
    axes: the panel.
    x: [n].
    mean: [n].
    half: [n], halves of the intervals; NaN: no band.
    label: label of the line.
    look: colour and line style, see `methods`.
    **kwargs: passed to `axes.plot`.
  """
  axes.plot(x, mean, label=label, **kwargs, **look)
  axes.fill_between(x, mean - half, mean + half, alpha=0.25, linewidth=0,
                    color=look['color'])


def note(whole: figure_lib.Figure, text: str) -> None:
  """Writes a line of text above the panels: what bands and marks mean."""
  whole.suptitle(text, fontsize=FONT_SIZE - 1)


def legend_below(whole: figure_lib.Figure, axes: Sequence[Any],
                 columns: Optional[int] = None) -> None:
  """Draws one legend below the panels, with each label of `axes` once."""
  found: dict[str, Any] = {}
  for some in axes:
    for handle, label in zip(*some.get_legend_handles_labels()):
      found.setdefault(label, handle)
  if found:
    width = whole.get_size_inches()[0]
    columns = columns or max(1, min(len(found), int(width / 1.5)))
    whole.legend(found.values(), found.keys(), loc='outside lower center',
                 ncols=columns)


def save(whole: figure_lib.Figure, path: str) -> None:
  """Writes a figure; an SVG with the same content has the same bytes.

  Raises:
    OSError: the file cannot be written.
    ValueError: the format is unknown.
  """
  svg = path.endswith('.svg')
  with matplotlib.rc_context({'svg.hashsalt': 'lpg'}):
    whole.savefig(path, dpi=DPI, metadata={'Date': None} if svg else None)


def grid_picture(data: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
  """Arranges numbers of cells [F] as [height, width]; NaN if not visited.

  `data` has the fields `height`, `width`, `cells` [F] and `visited` [F].
  """
  picture = np.full(data['height'] * data['width'], np.nan)
  picture[np.array(data['cells'])] = np.where(data['visited'], values, np.nan)
  return picture.reshape(data['height'], data['width'])


def panels(count: int, columns: int, scale: float = 1., **kwargs):
  """Returns a figure and `count` axes, in rows of `columns`.

  `scale` multiplies a panel's size; far below 1 panels are square. One or two
  columns are wider.
  """
  rows = -(-count // columns)
  width = PANEL[0] * scale * _WIDER.get(columns, 1.)
  height = PANEL[1] * scale if scale > 0.6 else width
  whole = figure(width * columns,
                 height * rows + (_ROOM if scale > 0.6 else 0.))
  grid = whole.subplots(rows, columns, squeeze=False, **kwargs).ravel()
  for axes in grid[count:]:
    axes.set_visible(False)
  return whole, grid[:count]
