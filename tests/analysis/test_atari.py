"""Aggregates of Atari results by hand, and the command around them."""

import os
import pathlib

import numpy as np
import pytest

from lpg_distributed.analysis import atari_figures
from lpg_distributed.analysis import atari_summary as atari_lib
from lpg_distributed.envs import atari as atari_env
from lpg_distributed.figures import style
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import results
from tests.launch import command_testing


def at(game, share):
  """The return that is `share` of the way from random to human."""
  random, human = atari_env.scores()[game]
  return random + share * (human - random)


def run(game, seed, share, done=True):
  value = at(game, share)
  return atari_lib.Run(game, seed, np.array([100., 200.]),
                       np.array([0., value]), value, done)


def write(root, game, seed=0, returns=(None, 1., 2.), end=True, rule='a2c',
          environment='atari/'):
  steps = 25 * len(returns)
  job = jobs.make_job(f'{environment}{game}', rule, seeds=[seed],
                      env_steps=steps if end else 2 * steps)
  directory = os.path.join(root, game, f'{rule}_seed{seed}')
  os.makedirs(directory)
  writer = results.Writer(directory, results.make_header(job, 4), {})
  for i, value in enumerate(returns, 1):
    writer.write({'seed': seed, 'env_steps': 25 * i, 'frames': 100 * i,
                  'return': value, 'episodes': 0 if value is None else 3})
  writer.close()


_T_1 = 12.7062  # Student's t of two samples, 97.5 %

# Four games of two runs; means 0.5, 1.5, 0.9 and 3.
SHARES = {'pong': (0.4, 0.6), 'boxing': (1.0, 2.0), 'breakout': (0.6, 1.2),
          'krull': (2., 4.)}
RUNS = [run(game, seed, share) for game, shares in SHARES.items()
        for seed, share in enumerate(shares)]


def test_aggregates_by_hand():
  scores = atari_lib.normalised(RUNS)
  np.testing.assert_allclose(scores, np.array(
      [SHARES[game] for game in sorted(SHARES)]).T, rtol=1e-6)
  summary = atari_lib.summarise(RUNS)
  assert (summary.num_games, summary.num_runs) == (4, 2)
  assert summary.above_human.value == 2.  # boxing, krull
  # Of 0.5, 0.9, 1.5, 3.
  np.testing.assert_allclose(summary.median.value, 1.2, rtol=1e-6)
  # Of 0.4, 0.6, [0.6, 1.0, 1.2, 2.0], 2., 4.: the middle four.
  np.testing.assert_allclose(summary.iqm.value, (0.6 + 1. + 1.2 + 2.) / 4,
                             rtol=1e-6)


def test_intervals_are_those_of_a_stratified_bootstrap():
  """By hand: each game's mean is one of three values.

  Boxing's is 1, 1.5 or 2 with chances 1/4, 1/2, 1/4; breakout's 0.6, 0.9 or
  1.2; krull is always above 1 and pong never. So the count is 1 + [boxing > 1]
  + [breakout > 1]: 1 with chance 3/16, 3 with 3/16.
  """
  above = atari_lib.summarise(RUNS).above_human
  assert (above.low, above.high) == (1., 3.)
  # Median of the two middle ones of four games.
  means = {game: (low, (low + high) / 2, high)
           for game, (low, high) in SHARES.items()}
  chances = (0.25, 0.5, 0.25)
  outcomes = {}
  for index in np.ndindex(3, 3, 3, 3):
    value = round(float(np.median([means[game][i] for game, i in zip(
        means, index)])), 6)
    outcomes[value] = outcomes.get(value, 0.) + float(
        np.prod([chances[i] for i in index]))
  values = np.array(sorted(outcomes))
  below = np.cumsum([outcomes[v] for v in values])
  low = values[np.searchsorted(below, 0.025)]
  high = values[np.searchsorted(below, 0.975)]
  median = atari_lib.summarise(RUNS).median
  np.testing.assert_allclose((median.low, median.high), (low, high), rtol=1e-4)
  assert atari_lib.summarise(RUNS) == atari_lib.summarise(RUNS)  # Repeatable.


def test_one_run_has_no_interval():
  summary = atari_lib.summarise([r for r in RUNS if r.seed == 0])
  assert summary.above_human == atari_lib.Interval(1.)  # krull; boxing is at 1
  assert 'no interval' in str(summary.iqm)


def test_runs_that_other_games_lack_are_left_out():
  scores = atari_lib.normalised(RUNS + [run('pong', 2, 9.)])
  assert scores.shape == (2, 4)
  np.testing.assert_allclose(scores[:, -1], SHARES['pong'], rtol=1e-6)


def test_the_table_by_hand():
  lines = atari_lib.table({'x': RUNS, 'y': [
      run('pong', 0, 1., done=False)]})
  assert lines[0] == '| game | random | human | x | y |'
  assert [line.split(' | ')[0] for line in lines[2:]] == [
      '| boxing', '| breakout', '| krull', '| pong']
  # Boxing: random 0.1, human 12.1; 12.1 and 24.1, so 18.1 +- 12.7 * 12 / 2.
  assert lines[2] == '| boxing | 0.1 | 12.1 | 18.1 ± 76 (150%) | - |'
  assert lines[-1].endswith(f'| {at("pong", 1.):.4g} (100%) * |')


def test_curves_are_means_with_intervals():
  runs = [atari_lib.Run('pong', 0, np.array([0., 100., 200.]),
                    np.array([0., 10., 20.]), 20., True),
          atari_lib.Run('pong', 1, np.array([50., 150.]),
                    np.array([20., 20.]), 20., True)]
  frames, mean, half = atari_figures.curve(runs)
  assert frames[0] == 50. and frames[-1] == 150.
  np.testing.assert_allclose((mean[0], mean[-1]), (12.5, 17.5))
  # The standard errors of 5 and 20, and of 15 and 20, are half their distance.
  np.testing.assert_allclose((half[0], half[-1]),
                             (_T_1 * 7.5, _T_1 * 2.5), rtol=1e-4)
  assert not atari_figures.curve(runs[:1]).half.any()


def test_a_curve_begins_after_a_hundred_episodes():
  assert atari_lib.settled([60, 30, 10, 5]) == 2
  assert atari_lib.settled([100, 1]) == 0
  assert atari_lib.settled([60, 30]) == 1  # Too few: the last row.


def test_points_of_a_curve_are_means_of_a_hundred_episodes():
  np.testing.assert_allclose(
      atari_lib.latest_returns([1., 2., 5., 8.], [60, 40, 50, 200]),
      [1., (60 + 80) / 100, (60 + 80 + 250) / 150, 8.])
  np.testing.assert_allclose(
      atari_lib.latest_returns([4., 1., 2.], [90, 60, 40]),
      [4., (360 + 60) / 150, (60 + 80) / 100])


def test_results_are_read_by_rule_and_preset(tmp_path):
  root = str(tmp_path)
  with pytest.raises(atari_lib.AnalysisError, match='no results'):
    atari_lib.read(root)
  write(root, 'zaxxon', returns=(None,))
  with pytest.raises(atari_lib.AnalysisError, match='has finished an episode'):
    atari_lib.read(root)
  write(root, 'pong')
  write(root, 'boxing', end=False)
  write(root, 'pong', rule='random')
  # Results of other environments are ignored.
  write(root, 'CartPole-v1', environment='gymnasium/')
  groups = atari_lib.read(root)
  assert list(groups) == ['a2c, dm_noop', 'random, dm_noop']
  boxing, pong = groups['a2c, dm_noop']
  assert pong.done and not boxing.done and pong.score == 2.
  # Six episodes in all, so the curve is its last point.
  np.testing.assert_array_equal(pong.frames, [300.])
  np.testing.assert_array_equal(pong.returns, [1.5])
  write(str(tmp_path / 'again'), 'pong')
  with pytest.raises(atari_lib.AnalysisError, match='two trainings of pong'):
    atari_lib.read(root)


def test_the_command_prints_a_table_and_draws_figures(tmp_path, capsys):
  for number in (1, 5):
    for seed in (0, 1):
      write(str(tmp_path / str(number)), 'pong', seed, (0., 10. * seed))
  arguments = [f'--results={n}={tmp_path / str(n)}' for n in (1, 5)]
  assert command_testing.call('atari_results',
      [*arguments, f'--output={tmp_path / "out"}']) == 0
  printed = capsys.readouterr().out
  assert '| pong | -20.7 | 14.6 | 5 ± 64 (73%) | 5 ± 64 (73%) |' in printed
  assert '1 games, 2 runs of each, 200 frames; above human 0 [0, 0]' in printed
  assert os.listdir(tmp_path / 'out') == ['atari_environments.svg']
  # Without numbers there are curves, and no Figure 9.
  assert command_testing.call('atari_results',
      [f'--results={tmp_path / "1"}']) == 0
  assert os.listdir(tmp_path / '1' / 'figures') == ['atari_curves.svg']
  assert command_testing.call('atari_results',
      [f'--results={tmp_path / "1"}'] * 2) == 2
  assert 'occurs twice' in capsys.readouterr().err
  assert command_testing.call('atari_results',
      [f'--results={tmp_path / "none"}']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1


def test_the_report_shows_what_is_stored(tmp_path, capsys):
  docs = pathlib.Path(__file__).resolve().parents[2] / 'docs'
  assert command_testing.call('atari_results', [f'--output={tmp_path}', *(
      f'--results={name}={docs}/results/atari/{name}'
      for name in ('12', '15', '2', 'a2c'))]) == 0
  report = (docs / 'results' / 'carrying_over.md').read_text(
      encoding='utf-8')
  rows = [line for line in capsys.readouterr().out.splitlines()
          if line.startswith(('| boxing ', '| breakout '))]
  assert len(rows) == 2 and all(row in report for row in rows)


def test_lines_of_42_runs_all_look_different():
  looks = [tuple(style.line(i).items()) for i in range(42)]
  assert len(set(looks)) == 42
