"""Result files, and the summaries and curves made from them."""

import json

import numpy as np
import pytest

from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import learning_curves
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import selection
from lpg_distributed.meta_testing import summary


def make_job(seeds=(0, 1), rule='a2c', environment='gymnax/CartPole-v1',
             **arguments):
  return jobs.make_job(environment, rule, seeds=seeds, env_steps=100,
                       **arguments)


def row(seed, env_steps, mean, episodes=1, **others):
  return {'seed': seed, 'env_steps': env_steps, 'frames': env_steps,
          'updates': 1, 'seconds': 0.5, 'return': mean,
          'episodes': episodes, **others}


def write(directory, job, rows, done=None):
  directory.mkdir(exist_ok=True, parents=True)
  writer = results.Writer(str(directory), results.make_header(job, 1),
                          done or {})
  for x in rows:
    writer.write(x)
  writer.close()
  return str(directory)


def test_round_trip(tmp_path):
  job = make_job()
  rows = [row(0, 10, 1.5, value=float('nan')), row(1, 10, None, 0)]
  found = results.read(write(tmp_path, job, rows))
  assert found.job == job
  assert found.rows == [{**rows[0], 'value': None}, rows[1]]
  header = found.header
  assert header['format'] == 'lpg-meta-test-1' and header['rule'] == 'a2c'
  assert header['environment'] == 'gymnax/CartPole-v1'
  assert header['versions']['jax'] and header['settings']['gamma'] == 0.995


def test_a_resume_drops_rows_after_the_checkpoint(tmp_path):
  job = make_job()
  rows = [row(s, n, 1.) for n in (10, 20, 30) for s in (0, 1)]
  write(tmp_path, job, rows)
  path = write(tmp_path, job, [row(0, 40, 2.)], done={0: 20, 1: 10})
  assert [(r['seed'], r['env_steps']) for r in results.read(path).rows] == [
      (0, 10), (1, 10), (0, 20), (0, 40)]


def test_an_incomplete_line_is_left_out(tmp_path):
  path = write(tmp_path, make_job(), [row(0, 10, 1.), row(0, 20, 1.)])
  file = tmp_path / results.FILE
  file.write_text(file.read_text()[:-9])
  assert [r['env_steps'] for r in results.read(path).rows] == [10]


@pytest.mark.parametrize('line', [
    '[1]', '3', 'null', '{}', '{"seed": 0, "env_steps": 20}',
    json.dumps(row(7, 20, 1.)), json.dumps(row(0, '20', 1.)),
    json.dumps(row(0, 20, 'a')), json.dumps(row(0, 10 ** 400, 1.)),
    json.dumps(row(0, 20, 1., None)), json.dumps(row([0], 20, 1.))])
def test_json_that_is_no_row_is_left_out(line, tmp_path):
  path = write(tmp_path, make_job(), [row(0, 10, 1.)])
  with open(tmp_path / results.FILE, 'a', encoding='utf-8') as f:
    f.write(f'{line}\n{json.dumps(row(0, 30, 2.))}\n')
  found = results.read(path)
  assert [r['env_steps'] for r in found.rows] == [10, 30]
  assert summary.final_return(summary.by_seed(found)[0]) == 2.


def test_another_job_is_refused(tmp_path):
  write(tmp_path, make_job(), [])
  header = results.read(str(tmp_path)).header
  with pytest.raises(results.ResultError, match=(
      "belongs to another job .rule 'a2c' in it, 'random' now")):
    write(tmp_path, make_job(rule='random'), [])
  for text in ('', '{}\n', 'x\n', json.dumps({'format': 'lpg-result-1'}),
               '[1]\n', 'null\n', json.dumps({**header, 'settings': [1]}),
               json.dumps({**header, 'seeds': 3}),
               json.dumps({**header, 'frames_per_step': None})):
    (tmp_path / results.FILE).write_text(text)
    with pytest.raises(results.ResultError, match='is not a result of'):
      results.read(str(tmp_path))
  with pytest.raises(results.ResultError, match='cannot be read'):
    results.read(str(tmp_path / 'none'))


def test_a_directory_of_before_a_setting_was_added_is_the_same_job(tmp_path):
  job = make_job()
  write(tmp_path, job, [row(0, 10, 1.)])
  path = tmp_path / results.FILE
  header, *others = path.read_text().splitlines()
  header = json.loads(header)
  for name in ('clip_range', 'passes', 'minibatches'):
    del header['settings'][name]
  path.write_text('\n'.join([json.dumps(header), *others]) + '\n')
  assert results.read(str(tmp_path)).job == job
  write(tmp_path, job, [row(0, 20, 1.)], done={0: 10})
  assert [r['env_steps'] for r in results.read(str(tmp_path)).rows] == [10, 20]
  with pytest.raises(results.ResultError, match='belongs to another job'):
    write(tmp_path, make_job(overrides=['passes=2']), [])


def test_final_return_by_hand():
  rows = [row(0, 50, 9., 4), row(0, 95, 1., 1), row(0, 100, 4., 3)]
  assert summary.final_return(rows) == (1. + 3 * 4.) / 4
  assert summary.final_return(rows, last=0.6) == (9. * 4 + 1. + 12.) / 8
  # No episode ended in the last part, or at all.
  assert summary.final_return([row(0, 50, 2., 5), row(0, 100, None, 0)]) == 2.
  assert summary.final_return([row(0, 100, None, 0)]) is None


def test_scores_have_an_interval_over_seeds(tmp_path):
  score = summary.score([1., 2., 6.])
  assert score.mean == 3.
  np.testing.assert_allclose(score.standard_error, np.sqrt(7. / 3.))
  # Student's t is 4.303 for three agents, and 12.71 for two.
  assert str(score) == '3 ± 6.6' and str(summary.score([2.])) == '2'
  path = write(tmp_path, make_job(), [
      row(0, 100, 1.), row(1, 100, 3., diverged=True)])
  assert summary.lines(path) == [
      'gymnax/CartPole-v1 by a2c: return 2 ± 13 (95 % interval over 2 seeds); '
      'diverged: seeds [1]']
  job = make_job(rule='lpg', eta='all_kinds_pi')
  assert summary.lines(write(tmp_path / 'lpg', job, [row(0, 100, 1.)])) == [
      'gymnax/CartPole-v1 by lpg (all_kinds_pi): return 1']


def test_curves_are_interpolated_on_a_common_grid(tmp_path):
  path = write(tmp_path, make_job(), [
      row(0, 0, 0.), row(0, 50, None, 0), row(0, 100, 100.),
      row(1, 20, 10.), row(1, 80, 10.)])
  steps, returns = learning_curves.curve(results.read(path))
  assert (steps[0], steps[-1]) == (20., 80.)
  np.testing.assert_allclose(returns[:, 0], steps)
  np.testing.assert_allclose(returns[:, 1], 10.)


def test_a_figure_of_several_results_is_drawn(tmp_path):
  rows = [row(s, n, float(n + s)) for n in (10, 100) for s in (0, 1)]
  found = [results.read(write(tmp_path / str(i), job, rows)) for i, job in
           enumerate([make_job(), make_job(rule='random'),
                      make_job(overrides=['learning_rate=0.1'])])]
  labels = learning_curves._labels(found)
  assert labels == ['a2c learning_rate=0.002', 'random',
                    'a2c learning_rate=0.1']
  path = str(tmp_path / 'figures' / 'all.png')
  assert learning_curves.draw(found, path) == path
  with open(path, 'rb') as f:
    assert f.read(4) == b'\x89PNG'
  with pytest.raises(results.ResultError, match='cannot be drawn'):
    learning_curves.draw(found, str(tmp_path / 'x.abc'))


def make_trials(root, returns):
  """`returns`: by environment and pair, of agents that end one episode."""
  trials = selection.trials(
      str(root), list(returns), (0.1, 0.2), (1.,), rule='a2c', env_steps=100)
  for trial in trials:
    value = returns[trial.job.environment][trial.pair.learning_rate]
    write(root / trial.directory, trial.job,
          [row(0, 100, value, value is not None)])
  return trials


def test_selection_by_hand(tmp_path):
  """Scores are human-normalised on Atari, else from worst to best pair."""
  choice = selection.choose(make_trials(tmp_path, {
      'atari/breakout': {0.1: 1.7 + 28.8, 0.2: 1.7},  # human and random
      'gymnax/CartPole-v1': {0.1: 10., 0.2: 30.}}))
  pairs = [selection.Pair(rate, 1.) for rate in (0.1, 0.2)]
  np.testing.assert_allclose([choice.scores[p] for p in pairs], [0.5, 0.5])
  choice = selection.choose(make_trials(tmp_path / 'b', {
      'atari/breakout': {0.1: 1.7, 0.2: 1.7 + 14.4},
      'gymnax/CartPole-v1': {0.1: None, 0.2: 5.}}))
  assert choice.best == pairs[1]
  np.testing.assert_allclose([choice.scores[p] for p in pairs], [0., 0.25])
  assert selection.lines_of(choice)[-1] == (
      'choice: --set=learning_rate=0.2 --set=kl_cost=1')
  with pytest.raises(jobs.JobError, match='no episode has ended yet'):
    selection.choose(make_trials(tmp_path / 'c', {
        'gymnax/CartPole-v1': {0.1: None, 0.2: None}}))


def test_settings_of_all_trials():
  arguments = ('x', ['gymnax/Catch-bsuite'], (0.1, 0.2), (1.,))
  for trial in selection.trials(*arguments, ['reward_scale=0.5'], rule='a2c'):
    assert trial.job.settings.reward_scale == 0.5
    assert trial.job.settings.learning_rate == trial.pair.learning_rate
  with pytest.raises(jobs.JobError, match='kl_cost is what is selected; give '
                     '--kl_costs'):
    selection.trials(*arguments, ['kl_cost=1'], rule='a2c')
  with pytest.raises(jobs.JobError, match="'x=1' is no setting"):
    selection.trials(*arguments, ['x=1'], rule='a2c')


def test_selection_tries_the_pairs_of_appendix_b2():
  trials = selection.trials('x', selection.ENVIRONMENTS,
                            selection.LEARNING_RATES, selection.KL_COSTS,
                            rule='random')
  assert len(trials) == 18 == len({t.directory for t in trials})
  assert {t.job.environment for t in trials} == {'atari/breakout',
                                                 'atari/boxing'}
  assert {t.job.settings.learning_rate for t in trials} == {1e-3, 5e-4, 3e-4}
  assert {t.job.settings.kl_cost for t in trials} == {1., 0.5, 0.1}
