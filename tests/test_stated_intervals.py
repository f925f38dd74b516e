"""Intervals in the text of pages are those of the stored results."""

import pathlib
import re

import numpy as np
import pytest
from scipy import optimize
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
  fits, untrained = [], []
  for name in ('all_kinds_pi', 'seed_1', 'seed_2'):
    about, data = stored.load(
        _RESULTS / f'sensitivity_{name}.json', 'sensitivity')
    found = sensitivity._fits(about, data)
    fits.append(found[-1])
    untrained.append(found[0])
  cells = []
  for what in ('reward_explained', 'phi_explained'):
    found = intervals.summary([getattr(fit, what) for fit in fits])
    cells.append(f'{found["mean"]:.0%} {found["high"] - found["mean"]:.0%}')
    shares = [getattr(fit, what) for fit in untrained]
    cells.append(f'{100. * min(shares):.0f} to {max(shares):.0%}')
  numbers = stated.groups('docs/results.md', (
      r'explains (\d+ ± \d+) % of how pi_hat responds to rewards and (\d+ ± '
      r'\d+) % .*? untrained rules have (\d+ to \d+) % and (\d+ to \d+) %'))
  trained = [re.sub(r'% (\d+)%', r' ± \1', cell) for cell in cells[::2]]
  assert numbers == (*trained, *(cell.strip('%') for cell in cells[1::2]))
  assert isinstance(fits[0], gae_fit.Fit)
  by_reward, by_phi = ([f'{getattr(fit, what):.0%}'.rstrip('%')
                        for fit in untrained]
                       for what in ('reward_explained', 'phi_explained'))
  assert stated.groups('docs/results/discovered.md', (
      r'explains (\d+) and (\d+) % by rewards, and (\d+) and (\d+) % by phi'
      )) == (*by_reward[1:], *by_phi[1:])
  assert stated.groups('docs/results/README.md', (
      r'untrained rule: (\d+), (\d+) and (\d+) %')) == tuple(by_phi)


def _printed(page, monkeypatch, capsys):
  """What the last program of a page prints, by the word before the colon."""
  text = (_RESULTS / page).read_text(encoding='utf-8')
  program = re.findall('```python\n(.*?)```', text, re.DOTALL)[-1]
  monkeypatch.chdir(_RESULTS.parents[1])
  exec(program, {})
  return dict(line.split(': ') for line in
              capsys.readouterr().out.splitlines())


def test_the_comparison_with_a2c_by_stricter_tests(monkeypatch, capsys):
  found = {name: list(map(float, re.findall(r' ([\d.e-]+)', text)))
           for name, text in _printed('README.md', monkeypatch, capsys).items()}
  sure = {name: better > worse for name, (holm, better, worse, _)
          in found.items() if holm < 0.05}
  assert sure == {'tabular_longer_horizon': False, **dict.fromkeys(
      ('tabular_long_dense', 'tabular_long_horizon', 'random_small',
       'random_small_sparse'), True)}
  numbers = stated.groups('docs/results/README.md', (
      r'adjusted p is ([\d.]+) on `tabular_sparse` and ([\d.]+) on '
      r'`chain_short`.*better in (\d+) lifetimes and worse in (\d+) of 128, '
      r'and the signed-rank test has p = ([\d.]+)\..*it is worse in (\d+)\.'))
  assert list(map(float, numbers)) == [
      found['tabular_sparse'][0], found['chain_short'][0],
      *found['tabular_long_horizon'][1:], found['tabular_dense'][2]]


def test_the_comparison_with_a2c_over_seeds(monkeypatch, capsys):
  found = {name: list(map(float, re.findall(r'-?[\d.]+', text))) for name, text
           in _printed('more_seeds.md', monkeypatch, capsys).items()}
  assert len(found) == 12
  told_apart = [{name for name, row in found.items()
                 if row[i] > 0. or row[i + 1] < 0.} for i in (1, 4)]
  assert told_apart == [
      {'random_small', 'tabular_longer_horizon'},
      {'random_small', 'random_small_sparse', 'tabular_longer_horizon'}]
  interval = r'(-?[\d.]+) to (-?[\d.]+)[)]'
  numbers = stated.groups('docs/results/more_seeds.md', (
      rf'`random_small` [(]([\d.]+), interval {interval};.*?'
      rf'`tabular_longer_horizon` [(](-[\d.]+), interval {interval};.*?'
      rf'`random_small_sparse` [(]{interval}.*?`tabular_long_dense` [(]'
      rf'{interval} and `tabular_long_horizon` [(]{interval}'))
  assert list(map(float, numbers)) == pytest.approx([
      *found['random_small'][:3], *found['tabular_longer_horizon'][:3],
      *found['random_small_sparse'][1:3], *found['tabular_long_dense'][1:3],
      *found['tabular_long_horizon'][1:3]], abs=0.0051)
  numbers = stated.groups('docs/results/more_seeds.md', (
      r'`random_small` [(]([\d.]+), interval ([\d.]+) to ([\d.]+)[)] and '
      r'`random_small_sparse` [(]([\d.]+), interval ([\d.]+) to ([\d.]+)[)].*?'
      r'`tabular_longer_horizon` [(](-[\d.]+), interval (-[\d.]+) to (-[\d.]+)'
      r'.*?`tabular_long_dense` [(](-[\d.]+) to ([\d.]+)[)] and '
      r'`tabular_long_horizon` [(](-[\d.]+) to ([\d.]+)[)]'))
  assert list(map(float, numbers)) == pytest.approx([
      *found['random_small'][3:], *found['random_small_sparse'][3:],
      *found['tabular_longer_horizon'][3:], *found['tabular_long_dense'][4:],
      *found['tabular_long_horizon'][4:]], abs=0.0051)


@pytest.mark.parametrize('path, variant, label', [
    ('figure7', 'LPG', r'\[study `ablations`\]\(\S+\), LPG'),
    ('clipping', 'each, rate 0.003',
     r'\[preset `demo`\]\(\S+\), whose \S+ is 0'),
    ('figure7', 'without L2', 'study `ablations`, without L2')])
def test_how_much_seeds_differ(path, variant, label):
  _, data = stored.load(_RESULTS / f'{path}.json', 'figure7')
  found = [end['tabular_dense']['trained'][0]
           for end in data['variants'][variant]['ends']]
  texts = stated.groups('docs/extending.md',
                        label + r' \| ([\d., ]+) \| (\S+) ')
  assert texts == (', '.join(f'{x:.2f}' for x in found),
                   f'{np.std(found, ddof=1):.2g}')


def test_differences_that_seeds_can_tell():
  """Differences between two groups of n seeds, in standard deviations."""
  for n in (3, 5, 10):
    limit = stats.t.ppf(0.975, 2 * n - 2)
    power = lambda d, n=n, limit=limit: stats.nct.sf(
        limit, 2 * n - 2, d * np.sqrt(n / 2)) - 0.8
    texts = stated.groups('docs/extending.md',
                          rf'\| {n} \| ([\d.]+) s \| ([\d.]+) s \|')
    assert texts == (f'{limit * np.sqrt(2 / n):.2g}',
                     f'{optimize.brentq(power, 0.1, 10.):.1f}')


def test_a_paired_difference_over_seeds():
  _, data = stored.load(_RESULTS / 'clipping.json', 'figure7')
  first, second = ([end['tabular_dense']['trained'][0]
                    for end in data['variants'][name]['ends']]
                   for name in ('each, rate 0.003', 'the sum, rate 0.003'))
  low, high = stats.ttest_rel(first, second).confidence_interval()
  texts = stated.groups('docs/extending.md',
                        r'out: ([\d.]+) to ([\d.]+) here')
  assert texts == (f'{low:.1f}', f'{high:.1f}')
