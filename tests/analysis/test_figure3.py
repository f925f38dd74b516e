"""Small evaluations on the training environments, checked by hand."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import curves
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_environments as training
from lpg_distributed.analysis import training_settings
from lpg_distributed.analysis import tuning
from lpg_distributed.core import baselines
from lpg_distributed.core import meta_update
from lpg_distributed.core import train_agents
from lpg_distributed.figures import intervals
from lpg_distributed.store import eta_file
from tests.analysis import run_testing
from tests.launch import command_testing

_RESULTS = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'results'
NAME, CONFIG = run_testing.NAME, run_testing.CONFIG
TINY = training_settings.ComparisonSettings(
    num_lifetimes=3, chunk=2, trials=4, finalists=2, tuning_lifetimes=2,
    final_lifetimes=3, updates=30, num_envs=8, points=4)
NUM_ROWS = TINY.trials + TINY.finalists  # of a search


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return run_testing.store(tmp_path_factory.mktemp('run') / 'run')


def test_summary_and_comparison_by_hand():
  found = intervals.summary([1., 2., 3., np.nan])
  # t with two degrees of freedom: 4.3027; error 1 / sqrt(3).
  half = 4.302653 / np.sqrt(3.)
  np.testing.assert_allclose(
      [found[k] for k in ('mean', 'standard_error', 'low', 'high')],
      [2., 1. / np.sqrt(3.), 2. - half, 2. + half], rtol=1e-6)
  assert found['num'] == 4 and found['not_finite'] == 1
  assert intervals.summary([5.])['low'] is None
  span = lambda low, high: {'low': low, 'high': high}
  assert intervals.compare(span(2, 3), span(0, 1)) == 1
  assert intervals.compare(span(0, 1), span(2, 3)) == -1
  assert intervals.compare(span(0, 2), span(1, 3)) == 0
  assert intervals.compare(span(None, None), span(1, 3)) == 0


def test_curves_by_hand():
  lifetimes = train_agents.Lifetimes(
      final_return=np.array([1., 2.]),
      episode_return=np.array([[1., 0.], [4., 0.], [2., 8.], [0., 0.]]),
      num_episodes=np.array([[1., 0.], [2., 0.], [1., 1.], [0., 0.]]),
      input_means=None, hyper=None, theta=None)
  bounds = curves.bins(4, 2)
  assert bounds.tolist() == [0, 2, 4]
  np.testing.assert_allclose(curves.curve(lifetimes, bounds),
                             [[3., np.nan], [2., 8.]])
  found = curves.row([lifetimes], bounds, 2)
  np.testing.assert_allclose(found['mean'], [3., 5.])
  np.testing.assert_allclose(found['whole'], [2.5, 8.])
  np.testing.assert_allclose(found['standard_error'], [np.nan, 3.])
  assert found['final'].tolist() == [1., 2.]


def test_sized_sets_updates_and_environments():
  config = training.sized(CONFIG, 'tabular_dense', CONFIG, TINY)
  assert config.environments == ('tabular_dense',)
  assert train_agents.num_updates(config, 'tabular_dense') == 30
  assert config.meta.num_envs == 8
  as_trained = dataclasses.replace(TINY, updates=0, num_envs=0)
  config = training.sized(CONFIG, NAME, CONFIG, as_trained)
  assert train_agents.num_updates(config, NAME) == 60
  assert config.meta.num_envs == 3


def test_a_rule_keeps_the_grid_of_its_bandit():
  agent = dataclasses.replace(CONFIG.agents[NAME], learning_rates=(7.,),
                              kl_costs=(2., 3.), lifetime_env_steps=1)
  other = dataclasses.replace(
      CONFIG, agents={**CONFIG.agents, NAME: agent, 'tabular_dense': agent})
  found = training.sized(other, NAME, CONFIG, TINY).agents[NAME]
  assert found.arms == ((7., 2.), (7., 3.))
  assert train_agents.num_updates(
      training.sized(other, NAME, CONFIG, TINY), NAME) == 30
  # Neither this rule nor the first one was trained on that kind.
  for base in (CONFIG, other):
    assert (training.sized(other, 'tabular_dense', base, TINY).agents[
        'tabular_dense'].arms == config_lib.AGENTS['tabular_dense'].arms)
  # The second rule was not trained on this kind either.
  base = dataclasses.replace(other, environments=('tabular_dense',))
  assert training.sized(CONFIG, 'tabular_dense', base, TINY).agents[
      'tabular_dense'].arms == ((7., 2.), (7., 3.))


@pytest.fixture(scope='module')
def rules(run_dir):
  lpg = sources.read(f'LPG={run_dir}')
  rule = dataclasses.replace(CONFIG.rule, kind='lpg_v')
  config = dataclasses.replace(
      CONFIG, rule=rule, evaluator=config_lib.EvaluatorConfig(enabled=False))
  lpg_v = sources.Source('LPG-V', np.asarray(meta_update.init(config).eta),
                         config, None, {})
  return [lpg, lpg_v, sources.untrained(lpg)]


@pytest.fixture(scope='module')
def evaluated(rules):
  return training.evaluate(NAME, rules, TINY)


def test_every_rule_is_evaluated_with_its_ablations(evaluated):
  assert list(evaluated['rules']) == [
      'LPG', 'LPG, alpha_y = 0', 'LPG, phi held', 'LPG, policy held', 'LPG-V',
      'LPG-V, phi held', 'LPG-V, policy held', 'untrained', 'A2C']
  for found in evaluated['rules'].values():
    assert found['final'].shape == found['whole'].shape == (3,)
    assert found['mean'].shape == (4,)
  assert evaluated['env_steps'].tolist() == [
      n * 8 * CONFIG.meta.trajectory_steps for n in (7, 15, 22, 30)]
  finals = {tuple(found['final']) for found in evaluated['rules'].values()}
  assert len(finals) > 2


def test_missing_results_are_added(evaluated, rules):
  begun = stored.plain(evaluated)
  begun['chosen'].pop('LPG-V')
  rows = begun['rules']
  rows['LPG']['final'] = [1., 2., 3.]  # Not repeated.
  for label in ('LPG-V', 'LPG-V, phi held', 'LPG-V, policy held'):
    rows.pop(label)
  kept = []
  found = training.evaluate(
      NAME, rules, TINY, found=begun,
      keep=lambda found: kept.append(
          dict(found['tuning']) or set(found['chosen'])))
  assert [len(some['LPG-V']) for some in kept[:-1]] == list(
      range(1, NUM_ROWS + 1))
  assert kept[-1] == set(evaluated['chosen']) and 'LPG-V' not in rows
  assert found['rules']['LPG']['final'] == [1., 2., 3.]
  for label in ('LPG-V', 'LPG-V, phi held', 'LPG-V, policy held'):
    assert stored.plain(found['rules'][label]) == stored.plain(
        evaluated['rules'][label])
  assert stored.plain(found['chosen']) == stored.plain(evaluated['chosen'])


@pytest.mark.parametrize('num_rows', [2, NUM_ROWS - 1])
def test_an_interrupted_search_is_resumed(
    evaluated, rules, monkeypatch, num_rows):
  """Interrupted among trials, and after one of two finalists."""
  begun = stored.plain(evaluated)
  tuned = begun['chosen'].pop('A2C')
  del begun['rules']['A2C']
  begun['tuning'] = {'A2C': tuned['trials'][:num_rows]}
  counts, make = [], training._a2c_simulator
  def counted(config, environment):
    simulate = make(config, environment)
    return lambda *args: counts.append(args[2]) or simulate(*args)
  monkeypatch.setattr(training, '_a2c_simulator', counted)
  kept = []
  again = training.evaluate(NAME, rules, TINY, found=begun, keep=lambda found:
                            kept.append(len(found['tuning'].get('A2C', ()))))
  assert stored.plain(again) == stored.plain(evaluated)
  assert kept == [*range(num_rows + 1, NUM_ROWS + 1), 0]
  wanted = TINY.trials * [TINY.tuning_lifetimes] + TINY.finalists * [
      TINY.final_lifetimes]
  assert counts == wanted[num_rows:] + 2 * [TINY.chunk]


def test_all_rules_are_tuned_with_equally_many_trials(evaluated):
  names = {'LPG': ['learning_rate', 'kl_cost'],
           'LPG-V': ['learning_rate', 'critic_rate', 'td_lambda'],
           'A2C': list(baselines.A2CHyperparameters._fields)}
  for label, wanted in names.items():
    tuned = evaluated['chosen'][label]
    assert tuned['names'] == wanted == list(tuned['best'])
    assert len(tuned['trials']) == NUM_ROWS
    last = {tuple(row[1:-2]): row[-2] for row in tuned['trials'][-2:]}
    best = last[tuple(tuned['best'].values())]
    assert best >= max(last.values()) - 0.01
  assert evaluated['chosen']['untrained'] == {
      'best': evaluated['chosen']['LPG']['best'], 'as': 'LPG'}
  keys = [training._chunk_keys(name, TINY)
          for name in (NAME, 'tabular_dense')]
  assert len({tuple(np.asarray(k)) for pair in keys for k in pair}) == 4


def test_arms_come_from_the_bandit_of_the_same_grid(run_dir):
  source = sources.read(run_dir)
  assert source.label == 'lpg' and source.bandit is not None
  assert source.arm_log_probs(NAME).shape == (9,)
  # An environment without training: all arms are equally likely.
  np.testing.assert_array_equal(source.arm_log_probs('chain_long'),
                                np.zeros(9))
  learned = dict(source.bandit)
  learned['bandits'] = {NAME: {'counts': [1] * 9, 'window':
                               [[float(i == 4)] + [0.] * 9 for i in range(9)]}}
  found = source._replace(bandit=learned).arm_log_probs(NAME)
  assert np.argmax(found) == 4 and np.exp(found[4]) > 0.9
  other = config_lib.AgentConfig(learning_rates=(1.,))
  np.testing.assert_array_equal(source.arm_log_probs(NAME, other), [0.] * 3)


def test_the_first_trial_is_the_preferred_arm_of_the_bandit(run_dir):
  source = sources.read(run_dir)
  known = lambda counts: source._replace(bandit={**source.bandit, 'bandits': {
      NAME: {'counts': counts, 'window': [[float(i == 7)] + [0.] * 9
                                          for i in range(9)]}}})
  agent = CONFIG.agents[NAME]
  first = lambda source: training._first_arm(source, NAME, agent)
  assert first(known([9] * 9)) == 7
  # Untried arms come first.
  for unknown in (known([9] * 8 + [0]), source._replace(bandit=None)):
    assert first(unknown) == 4  # The middle one.
  other = config_lib.AgentConfig(learning_rates=(1.,))
  assert known([9] * 9).preferred_arm(NAME, other) is None
  assert known([9] * 9).preferred_arm('chain_long', agent) is None


def test_agents_learn_with_the_chosen_hyperparameters(run_dir):
  """LPG learns by the only trial's arm, with the gamma that was drawn."""
  config = training.sized(CONFIG, NAME, CONFIG, TINY)
  source = sources.read(run_dir)
  key, arms = jax.random.PRNGKey(0), config.agents[NAME].arms
  by_arm = evaluation.LifetimeSimulator(config, NAME, 3)(
      source.eta, key, evaluation.only_arm(5, len(arms)))
  values = {'learning_rate': arms[5][0], 'kl_cost': arms[5][1]}
  simulator = training._RuleSimulator(config, NAME)
  by_values = simulator(source.eta, values, key, 3)
  for name in ('final_return', 'episode_return'):
    np.testing.assert_array_equal(getattr(by_arm, name),
                                  getattr(by_values, name))
  for name in ('learning_rate', 'kl_cost', 'gamma'):
    np.testing.assert_array_equal(getattr(by_arm.hyper, name),
                                  getattr(by_values.hyper, name))
  changed = simulator(source.eta, {**values, 'learning_rate': 1.}, key, 3)
  assert np.any(changed.episode_return != by_values.episode_return)


def test_one_trial_is_the_preferred_arm(run_dir, monkeypatch):
  """No lifetime is simulated for tuning."""
  settings = dataclasses.replace(TINY, trials=1, ablations=False)
  monkeypatch.setattr(tuning, '_score', None)
  found = training.evaluate(NAME, [sources.read(f'LPG={run_dir}')], settings)
  arms = CONFIG.agents[NAME].arms
  assert found['chosen']['LPG']['best'] == dict(zip(
      ('learning_rate', 'kl_cost'), arms[(len(arms) - 1) // 2]))
  assert found['chosen']['A2C']['best']['td_lambda'] == 0.95


def fake_evaluate(environment, rules, settings, report=None, found=None,
                  keep=lambda found: None):
  """Replaces `training_environments.evaluate`; returns random numbers."""
  del report
  if found:
    return found
  rng = np.random.default_rng(len(environment))
  labels = [source.label for source in rules]
  found = {'env_steps': np.arange(1, 5) * 1000, 'chosen': {}, 'rules': {
      label: {'final': rng.random(settings.num_lifetimes),
              'whole': rng.random(settings.num_lifetimes),
              'mean': rng.random(4), 'standard_error': 0.1 * rng.random(4)}
      for label in (*labels, f'{labels[0]}, alpha_y = 0',
                    f'{labels[0]}, phi held', 'A2C')}}
  keep(found)
  return found


def test_the_command_stores_adds_and_refuses_results(
    run_dir, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(training, 'evaluate', fake_evaluate)
  results = tmp_path / 'figure3.json'
  flags = [f'--results={results}', '--num_lifetimes=2', '--chunk=2',
           '--tuning_lifetimes=2', '--updates=6', '--num_envs=3']
  run = [f'--run=LPG={run_dir}', *flags]
  assert command_testing.call('figure3', run) == 0
  out = capsys.readouterr().out
  assert '| `chain_short` | 1 |' in out and 'Normalised' in out
  assert 'LPG against A2C, final return, of 1 kinds: ' in out
  assert ('LPG: both ablations of its predictions cost return on 0 of 1 kinds.'
          in out)
  picture = (tmp_path / 'figure3.svg').read_bytes()
  # The same command computes nothing again, and adds new environments.
  content = json.loads(results.read_text())
  content['data'][NAME]['rules']['LPG']['final'] = [0.5, 0.5]
  results.write_text(json.dumps(content))
  assert command_testing.call('figure3',
      [*run, f'--environments={NAME},chain_long']) == 0
  again = json.loads(results.read_text())
  assert list(again['data']) == [NAME, 'chain_long']
  assert again['data'][NAME]['rules']['LPG']['final'] == [0.5, 0.5]
  assert (tmp_path / 'figure3.svg').read_bytes() != picture
  # Another comparison needs another file.
  capsys.readouterr()
  # A setting that an older file lacks has its default. An older search is not
  # mixed with this one.
  del again['about']['settings']['ablations']
  results.write_text(json.dumps(again))
  assert command_testing.call('figure3', run) == 0
  del again['about']['settings']['trials']
  old = tmp_path / 'old.json'
  old.write_text(json.dumps(again))
  capsys.readouterr()
  for bad, message in (
      ([*run, '--num_envs=4'], 'another comparison'),
      ([*run, f'--results={old}'], 'another comparison'),
      ([*run, '--trials=0'], '--trials is 0; allowed: 1 or more'),
      ([*run, '--environments=chess'], 'chess'),
      ([*run, f'--run=LPG={run_dir}'], 'a label of its own'),
      ([*run, '--num_lifetimes=1'], 'allowed: 2 or more')):
    assert command_testing.call('figure3', bad) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_verdicts_by_hand():
  row = lambda *values: {'final': list(values), 'whole': [1., 1.1, 1.2]}
  data = {NAME: {'rules': {
      'LPG': row(.9, .91, .92), 'LPG, alpha_y = 0': row(.1, .11, .12),
      'LPG, phi held': row(.2, .21, .22), 'A2C': row(.5, .51, .52)}},
          'chain_long': {'rules': {
      'LPG': row(.1, .11, .12), 'LPG, alpha_y = 0': row(.1, .11, .12),
      'LPG, phi held': row(.0, .01, .02), 'A2C': row(.5, .51, .52)}},
          'tabular_dense': {'rules': {'A2C': row(.5, .51, .52)}}}
  about = {'rules': {'LPG': {}, 'untrained': {'untrained': True}}}
  assert figure3._verdicts(about, data) == [
      'LPG against A2C, final return, of 2 kinds: above on 1, below on 1, '
      'intervals overlap on 0.',
      'LPG against A2C, whole curve, of 2 kinds: above on 0, below on 0, '
      'intervals overlap on 2.',
      'LPG: both ablations of its predictions cost return on 1 of 2 kinds.']


def test_a2c_is_the_last_column():
  row = {'final': [.5, .6], 'whole': [.5, .6]}
  about = {'rules': {'LPG': {}}, 'settings': {'num_lifetimes': 2}}
  text = figure3.lines(about, {NAME: {
      'rules': {'A2C': row, 'LPG': row, 'untrained': row}, 'arms': {}}})
  assert '| environment | optimal | LPG | untrained | A2C |' in text
  assert '| environment | LPG | untrained | A2C |' in text


def test_hyper_params_by_hand():
  best = {'learning_rate': 160., 'kl_cost': 0.5}
  a2c = {'learning_rate': 2., 'entropy_cost': 0.01, 'critic_rate': 0.3,
         'td_lambda': 0.8, 'gamma': 0.98}
  data = {NAME: {'chosen': {
      'LPG': {'best': best, 'at_edge': {'kl_cost': 1},
              'widened': {'learning_rate': [1., 1000.]}},
      'A2C': {'best': a2c, 'at_edge': {'gamma': -1}, 'widened': {}}}},
          'chain_long': {'chosen': {'LPG': {'best': best}}}}
  about = {'rules': {'LPG': {}, 'untrained': {'untrained': True}}}
  assert figure3._hyper_params(about, data)[2:] == [
      f'| `{NAME}` | rate 160*, KL 0.5 (largest) | rate 2, entropy 0.01, '
      'critic 0.3, lambda 0.8, gamma 0.98 (smallest) |',
      '| `chain_long` | rate 160, KL 0.5 | - |']
  assert figure3._search(dataclasses.asdict(TINY)).startswith(
      'Hyperparameters of each rule and of A2C. Of 4 trials on 2 other '
      'lifetimes each, the best 2 were repeated on 3 further lifetimes')


def test_hyper_params_of_older_files_show_the_ends_of_grids():
  arms = [(rate, cost) for rate in (1., 2., 4.) for cost in (5., 7.)]
  pairs = [(rate, cost) for rate in (1., 2.) for cost in (0., 0.01, 0.02)]
  a2c = {'learning_rate': 2., 'entropy_cost': 0.01, 'pairs': pairs}
  none = {**a2c, 'learning_rate': 1., 'entropy_cost': 0.}
  data = {NAME: {'arms': {'LPG': {'arm': 2, 'arms': arms}}, 'a2c': a2c},
          'chain_long': {'arms': {'LPG': {'arm': None, 'arms': arms}},
                         'a2c': none}, 'tabular_dense': {'arms': {}}}
  about = {'rules': {'LPG': {}, 'untrained': {'untrained': True}}}
  assert figure3._hyper_params(about, data) == [
      '| environment | LPG | A2C |', '|---|---|---|',
      f'| `{NAME}` | 2, 5 (smallest) | 2 (largest), 0.01 |',
      '| `chain_long` | - | 1 (smallest), 0 |', '| `tabular_dense` | - | - |']
  assert figure3._pair((3., 1.), [(3., 1.)]) == '3, 1'


@pytest.mark.parametrize('path', [
    path for path in sorted(_RESULTS.glob('*.json'))
    if json.loads(path.read_text())['experiment'] == figure3.NAME],
                         ids=lambda path: path.stem)
def test_stored_results_are_read(path):
  """Files of older versions can be read too."""
  about, data = stored.load(str(path), figure3.NAME)
  text = '\n'.join(figure3.lines(about, data))
  for name in data:
    # Final and whole returns, normalised ones, and hyperparameters.
    assert text.count(f'| `{name}` |') == 4


def test_normalised_returns_by_hand():
  assert figure3.normalised('chain_short', 0.25) == 0.25
  assert figure3.normalised('random_dense', 1.) is None
  np.testing.assert_allclose(
      figure3.normalised('tabular_dense', 44.3682), 1.)


def test_rules_are_read_from_runs_snapshots_and_files(run_dir, tmp_path):
  file, steps = sources.latest(run_dir)
  assert steps == [5]
  np.testing.assert_allclose(
      file.eta, 30. * np.asarray(meta_update.init(CONFIG).eta), rtol=1e-6)
  mean, steps = sources.latest(run_dir, 2)
  assert steps == [2, 4]
  np.testing.assert_allclose(
      mean.eta, 3. * np.asarray(meta_update.init(CONFIG).eta), rtol=1e-6)
  with pytest.raises(sources.SourceError, match='has 2 snapshots'):
    sources.latest(run_dir, 3)
  path = str(tmp_path / 'other.npz')
  other = config_lib.RuleConfig(num_predictions=3, embedding_size=3,
                                lstm_size=3)
  eta_file.save(path, meta_update.init(dataclasses.replace(
      CONFIG, rule=other)).eta, other)
  assert sources.read(path).config.rule == other
  with pytest.raises(sources.SourceError, match='different shapes'):
    sources.average([path, sources.snapshots(run_dir)[0][1]])
  with pytest.raises(ValueError, match='no published rule'):
    sources.read('nothing_of_that_name')


def test_stored_results_are_loaded_as_saved(tmp_path):
  path = str(tmp_path / 'a' / 'b.json')
  stored.save(path, 'x', {'n': np.int64(3)}, {
      'a': np.array([1. / 3., np.nan]), 'b': (True, None, 'c')})
  about, data = stored.load(path, 'x')
  assert about == {'n': 3}
  assert data == {'a': [0.33333, None], 'b': [True, None, 'c']}
  np.testing.assert_array_equal(stored.as_array(data['a']), [0.33333, np.nan])
  with pytest.raises(stored.ResultsError, match="holds results of 'x'"):
    stored.load(path, 'y')
  (tmp_path / 'c.json').write_text('{"format": 1')
  with pytest.raises(stored.ResultsError, match='holds no results'):
    stored.load(str(tmp_path / 'c.json'), 'x')


def test_processor_time_includes_what_an_earlier_command_computed(tmp_path):
  path = str(tmp_path / 'a.json')
  parts = {'a': {'process_minutes': 900.}, 'b': {'process_minutes': 300.}}
  experiment.compute_and_store(figure3, path, 'command', lambda: ({}, parts))
  about, _ = stored.load(path, figure3.NAME)
  assert about['process_minutes'] == 1200.
