"""Colours of methods, and intervals."""

import matplotlib
import numpy as np

from lpg_distributed.figures import intervals
from lpg_distributed.figures import style


def test_a_method_looks_the_same_in_all_figures():
  few, many = style.methods(['A2C', 'LPG']), style.methods(
      ['mine', 'LPG', 'untrained', 'yours', 'A2C'])
  assert few['A2C'] == many['A2C'] and few['LPG'] == many['LPG']
  assert style.methods(['a2c'])['a2c'] == few['A2C']
  looks = [tuple(look.values()) for look in many.values()]
  assert len(set(looks)) == len(looks)


def test_the_first_unknown_rule_looks_like_a_learned_one():
  learned = style.methods(['LPG'])['LPG']
  assert style.methods(['mine', 'A2C'])['mine'] == learned
  assert style.methods(['mine', 'LPG'])['mine'] != learned


def test_half_of_an_interval_is_students_t():
  np.testing.assert_allclose(intervals.half_width([1., 2.], 3),
                             [4.302653, 8.605305], rtol=1e-6)
  assert np.isnan(intervals.half_width(1., 1))
  assert [intervals.half_text(x) for x in (0.123, 9.87, 143.)] == [
      '0.12', '9.9', '140']


def test_the_same_figure_has_the_same_bytes(tmp_path):
  paths = [tmp_path / name for name in ('a.svg', 'b.svg', 'c.png')]
  for path in paths:
    figure, (axes,) = style.panels(1, 1)
    axes.plot([1., 2.], label='a')
    style.note(figure, 'a note')
    style.legend_below(figure, [axes])
    style.save(figure, str(path))
  assert paths[0].read_bytes() == paths[1].read_bytes()
  assert paths[2].read_bytes().startswith(b'\x89PNG')
  assert matplotlib.rcParams['font.size'] == style.FONT_SIZE
