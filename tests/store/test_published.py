"""Rules are found by name or path, whatever the working directory."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import errors
from lpg_distributed import presets
from lpg_distributed.analysis import sources
from lpg_distributed.core import rule_vector
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import mini
from lpg_distributed.nodes import initial_rule
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from lpg_distributed.store import run_directory

NAME = 'all_kinds_pi'
ETA = eta_file.load(published.weights_path(NAME))
CATCH = 'gymnax/Catch-bsuite'


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """A directory with the rule as `rules/mine.npz`, and a run `run`."""
  monkeypatch.chdir(tmp_path)
  for path in ('rules/mine.npz', 'run/eta.npz'):
    os.makedirs(os.path.dirname(path))
    shutil.copy(published.weights_path(NAME), path)
  return tmp_path


def load_by_job(place):
  """Loads a rule as --eta of meta-test, atari and select."""
  job = jobs.make_job(CATCH, 'lpg', eta=place)
  return rule_vector.ravel(loading.load_eta(job, 0))


def load_by_run(place):
  """Loads a rule as run.initial_rule, in a node of another directory."""
  config = presets.demo()
  config = dataclasses.replace(config, rule=ETA.rule, run=dataclasses.replace(
      config.run, initial_rule=place))
  run = run_directory.RunDirectory.open('new_run', config)
  run.close()
  before = os.getcwd()
  os.chdir('/')
  try:
    return initial_rule.first_state(config, run.path).eta
  finally:
    os.chdir(before)


def check_mini(place):
  """Loads a rule as --eta of mini."""
  mini.check(mini.MiniConfig(eta_file=place), 'table')
  return mini.Item(mini.MiniConfig(eta_file=place), CATCH, 'lpg', 'table').job(
      0.1, (0, 1, 2)) and ETA.eta


ENTRIES = {
    'load_rule': lambda place: lpg.load_rule(place).eta,
    '--eta': load_by_job,
    'mini': check_mini,
    '--run': lambda place: sources.read(place).eta,
    'run.initial_rule': load_by_run,
}


@pytest.mark.parametrize('entry', ENTRIES)
@pytest.mark.parametrize('place', [NAME, 'rules/mine.npz'])
def test_every_entry_takes_a_name_or_a_path(elsewhere, entry, place):
  np.testing.assert_array_equal(ENTRIES[entry](place), ETA.eta)


@pytest.mark.parametrize('entry', ENTRIES)
@pytest.mark.parametrize('place', ['nobody', 'rules/none.npz'])
def test_every_entry_refuses_in_one_line(elsewhere, entry, place):
  with pytest.raises(errors.UserError) as info:
    ENTRIES[entry](place)
  assert place in str(info.value) and '\n' not in str(info.value)
  if place == 'nobody':
    assert NAME in str(info.value)


def test_a_path_is_resolved_once(elsewhere, monkeypatch):
  path = str(elsewhere / 'rules' / 'mine.npz')
  assert published.fix('rules/mine.npz') == published.resolve(path) == path
  assert published.fix('run') == str(elsewhere / 'run' / 'eta.npz')
  job = jobs.make_job(CATCH, 'lpg', eta='rules/mine.npz')
  monkeypatch.chdir('/')
  assert job.eta == path
  loading.load_eta(job, 0)


def test_a_name_stays_a_name_for_hosts_with_other_paths(elsewhere):
  assert jobs.make_job(CATCH, 'lpg', eta=NAME).eta == NAME
  assert os.path.isabs(published.resolve(NAME))
  os.mkdir(NAME)  # A directory of the name is no rule.
  assert published.fix(NAME) == NAME
  os.rmdir(NAME)
  shutil.copy('rules/mine.npz', NAME)  # A file comes first.
  assert published.fix(NAME) == str(elsewhere / NAME)


def test_a_run_resumes_without_the_file_of_its_initial_rule(elsewhere):
  np.testing.assert_array_equal(load_by_run('rules/mine.npz'), ETA.eta)
  shutil.rmtree('rules')
  np.testing.assert_array_equal(load_by_run('rules/mine.npz'), ETA.eta)
  os.remove(run_directory.initial_rule_path('new_run'))
  with pytest.raises(errors.UserError, match='no file'):
    load_by_run('rules/mine.npz')
  os.makedirs('new_run/checkpoints/step_00000001')
  config = run_directory.read_config('new_run')
  run_directory.RunDirectory.open('new_run', config).close()


def test_best_hyperparameters_of_a_published_rule():
  best = lpg.best_hyperparameters(NAME, 'chain_short')
  card = published.load_card(NAME)
  agent = card['config']['agents']['chain_short']
  assert best.learning_rate in agent['learning_rates']
  assert best.kl_cost in agent['kl_costs']
  counts = card['bandit']['bandits']['chain_short']['counts']
  arms = [(x, y) for x in agent['learning_rates'] for y in agent['kl_costs']]
  # If all arms were tried, the best one has the highest probability.
  window = np.array(card['bandit']['bandits']['chain_short']['window'])
  settings = card['config']['bandit']
  score = (window.sum(1) / np.minimum(counts, window.shape[1])
           + settings['exploration_bonus'] / np.sqrt(counts))
  assert min(counts) > 0 and best == arms[int(np.argmax(score))]
  assert lpg.best_hyperparameters(lpg.load_rule(NAME), 'chain_short') == best
  assert lpg.best_hyperparameters(published.weights_path(NAME),
                                  'chain_short') == best


@pytest.mark.parametrize('rule, environment, part', [
    (NAME, 'nowhere', "no bandit for 'nowhere'; allowed: tabular_dense"),
    ('nobody', 'chain_short', 'no published rule'),
    ('rules/mine.npz', 'chain_short', 'no card beside it'),
    ('run', 'chain_short', 'no run directory')])
def test_best_hyperparameters_without_a_bandit_are_refused(
    elsewhere, rule, environment, part):
  with pytest.raises(errors.UserError, match=part):
    lpg.best_hyperparameters(rule, environment)


def test_best_hyperparameters_of_an_unpublished_rule_are_refused():
  config = ETA.rule
  eta = rule_vector.ravel(rule_vector.init(config, jax.random.PRNGKey(0)))
  with pytest.raises(errors.UserError, match='not a published one'):
    lpg.best_hyperparameters(lpg.Rule(eta, config, {'name': NAME}),
                             'chain_short')


def test_best_hyperparameters_of_a_run(tmp_path):
  """Only among the arms that were tried."""
  run_dir = str(tmp_path / 'run')
  shutil.copytree(os.path.join(os.path.dirname(__file__), 'written_before',
                               'run'), run_dir)
  with pytest.raises(errors.UserError, match='has tried nothing'):
    lpg.best_hyperparameters(run_dir, 'chain_short')
  state = checkpointing.load_json(checkpointing.latest(run_dir), 'bandit')
  values = state['bandits']['chain_short']
  for arm, number, value in ((1, 2, 3.), (7, 1, 5.), (4, 9, 4.)):
    values['counts'][arm] = number
    values['window'][arm][:number] = [value] * number
  data = json.dumps(state).encode()
  shutil.rmtree(os.path.join(run_dir, 'checkpoints'))
  record = checkpointing.write_part(run_dir, 3, 'bandit', data)
  checkpointing.commit(run_dir, 3, [record], 1)
  assert lpg.best_hyperparameters(run_dir, 'chain_short') == (80., 0.5)
