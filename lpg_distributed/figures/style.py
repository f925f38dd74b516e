"""The common style of figures, with colours for colour-blind readers."""

from typing import Any, Mapping

import matplotlib
from matplotlib import figure as figure_lib
import numpy as np

FONT_SIZE = 8
DPI = 120
PANEL = (3.6, 2.6)  # width and height in inches
# Lightness increases monotonically, so the map is readable in grey as well.
COLOUR_MAP = 'cividis'

# Okabe and Ito (2008), without yellow, which is hard to see on white.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00',
           '#000000')
# Line styles, for figures with more lines than colours, and for grey prints.
LINES = ('-', '--', '-.', ':', (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))


def line(index: int) -> dict[str, Any]:
  """Returns colour and style of the index-th line; they repeat after 42."""
  return {'color': COLOURS[index % len(COLOURS)],
          'linestyle': LINES[index // len(COLOURS) % len(LINES)]}


def distinct(index: int) -> dict[str, Any]:
  """Like `line`, for up to six lines, all of different styles."""
  return {**line(index), 'linestyle': LINES[index % len(LINES)]}


def figure(width: float, height: float) -> figure_lib.Figure:
  """Returns an empty figure; width and height are in inches."""
  matplotlib.rcParams['font.size'] = FONT_SIZE
  return figure_lib.Figure(figsize=(width, height), layout='constrained')


def grid_picture(data: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
  """Arranges numbers of cells [F] as [height, width]; NaN if not visited.

  `data` has the fields `height`, `width`, `cells` [F] and `visited` [F].
  """
  picture = np.full(data['height'] * data['width'], np.nan)
  picture[np.array(data['cells'])] = np.where(data['visited'], values, np.nan)
  return picture.reshape(data['height'], data['width'])


def panels(count: int, columns: int, scale: float = 1., **kwargs):
  """Returns a figure and `count` axes, in rows of `columns`.

  `scale` multiplies a panel's width; far below 1 panels are square.
  """
  rows = -(-count // columns)
  width = PANEL[0] * scale
  height = PANEL[1] * scale if scale > 0.6 else width
  whole = figure(width * columns, height * rows)
  grid = whole.subplots(rows, columns, squeeze=False, **kwargs).ravel()
  for axes in grid[count:]:
    axes.set_visible(False)
  return whole, grid[:count]
