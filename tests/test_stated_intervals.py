"""Intervals in the text of pages are those of the stored results."""

import pathlib
import re

import pytest
from scipy import stats

from lpg_distributed.analysis import gae_fit
from lpg_distributed.analysis import sensitivity
from lpg_distributed.analysis import stored
from lpg_distributed.figures import intervals
from tests import stated

_RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'results'


@pytest.mark.parametrize('path, environment, first, second, pattern', [
    ('scale.json', 'tabular_dense', '64 lifetimes', 'LPG',
     'grid [(]{} to {} more[)]'),
    ('scale.json', 'tabular_dense', 'LPG', 'not staggered',
     'staggered ages [(]{} to {}[)]'),
    ('figure7.json', 'tabular_dense', 'LPG', 'fixed hyperparameters',
     'has {} to {} more on the grid than with fixed'),
    ('figure7.json', 'tabular_dense', 'LPG-V', 'LPG', 'and {} to {} less than'),
    ('figure7.json', 'tabular_dense', 'LPG', 'without L2',
     'minus the rule without L2 it has {} to {}[.]'),
    ('predictions.json', 'chain_short', 'LPG', 'without L2',
     'LPG has {} to {} more on the chain'),
    ('predictions.json', 'tabular_dense', 'LPG', 'without softmax of y',
     'interval of the difference is {} to {}[.]'),
    ('predictions.json', 'tabular_dense', 'LPG', 'alpha_y of Table 3',
     'costs the grid about 3 [(]{} to {}[)]'),
])
def test_differences_over_seeds(
    path, environment, first, second, pattern):
  _, data = stored.load(_RESULTS / path, 'figure7')
  returns = [[end[environment]['trained'][0]
              for end in data['variants'][name]['ends']]
             for name in (first, second)]
  low, high = stats.ttest_ind(*returns, equal_var=False).confidence_interval()
  page = 'training_speed' if path == 'scale.json' else 'figure7'
  numbers = stated.groups(f'docs/results/{page}.md',
                   pattern.format(*2 * [r'(-?[\d.]*\d)']))
  for value, text in zip((low, high), numbers):
    assert f'{value:.{len(text.partition(".")[2])}f}' == text


def test_the_summary_of_what_was_discovered():
  fits = []
  for name in ('all_kinds_pi', 'seed_1', 'seed_2'):
    about, data = stored.load(
        _RESULTS / f'sensitivity_{name}.json', 'sensitivity')
    found = sensitivity._fits(about, data)
    fits.append(found[-1])
    if name == 'all_kinds_pi':
      untrained = found[0]
  cells = []
  for what in ('reward_explained', 'phi_explained'):
    found = intervals.summary([getattr(fit, what) for fit in fits])
    cells.append(f'{found["mean"]:.0%} {found["high"] - found["mean"]:.0%}')
    cells.append(f'{getattr(untrained, what):.0%}')
  numbers = stated.groups('docs/results.md', (
      r'explains (\d+ ± \d+) % of how pi_hat responds to rewards and (\d+ ± '
      r'\d+) % .*? untrained rule has (\d+) % and (\d+) %'))
  trained = [re.sub(r'% (\d+)%', r' ± \1', cell) for cell in cells[::2]]
  assert numbers == (*trained, *(cell.strip('%') for cell in cells[1::2]))
  assert isinstance(fits[0], gae_fit.Fit)
