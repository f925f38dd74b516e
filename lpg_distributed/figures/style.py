"""How all figures look: colours that the colour-blind can tell apart."""

from typing import Any, Mapping

import matplotlib
from matplotlib import figure as figure_lib
import numpy as np

FONT_SIZE = 8
DPI = 120
PANEL = (3.6, 2.6)  # inches
# From dark to light without a change of hue's order: reads in grey as well.
COLOUR_MAP = 'cividis'

# Okabe and Ito (2008); yellow is left out, since it is faint on white.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00',
           '#000000')
# Beside colour, since there may be more lines, and since some print grey.
LINES = ('-', '--', '-.', ':', (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))


def line(index: int) -> dict[str, Any]:
  """Colour and form of the index-th line; they repeat after 42."""
  return {'color': COLOURS[index % len(COLOURS)],
          'linestyle': LINES[index // len(COLOURS) % len(LINES)]}


def distinct(index: int) -> dict[str, Any]:
  """As `line`, for few lines: six are of other forms, so that grey will do."""
  return {**line(index), 'linestyle': LINES[index % len(LINES)]}


def figure(width: float, height: float) -> figure_lib.Figure:
  """An empty one, of that many inches."""
  matplotlib.rcParams['font.size'] = FONT_SIZE
  return figure_lib.Figure(figsize=(width, height), layout='constrained')


def grid_picture(data: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
  """Numbers [F] of a grid's cells as [height, width]; NaN where nobody is.

  `data`, as figures keep it: `height`, `width`, `cells` [F] and `visited` [F].
  """
  picture = np.full(data['height'] * data['width'], np.nan)
  picture[np.array(data['cells'])] = np.where(data['visited'], values, np.nan)
  return picture.reshape(data['height'], data['width'])


def panels(count: int, columns: int, scale: float = 1., **kwargs):
  """(figure, `count` axes) in rows of `columns`; what is over is hidden.

  `scale` is that of a panel's width; much below 1 they are square.
  """
  rows = -(-count // columns)
  width = PANEL[0] * scale
  height = PANEL[1] * scale if scale > 0.6 else width
  whole = figure(width * columns, height * rows)
  grid = whole.subplots(rows, columns, squeeze=False, **kwargs).ravel()
  for axes in grid[count:]:
    axes.set_visible(False)
  return whole, grid[:count]
